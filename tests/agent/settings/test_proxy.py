"""Layers of the effective ProxyConfig, and what flags and annotations do to it."""

from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.settings.load import MAX_FILE, load, read_file
from tests.fakes.configs import make

MESH = "./etc/istio/config/mesh"
MESH_TEXT = b"""
defaultConfig: {concurrency: 3, statusPort: 15030, drainDuration: 7s, proxyMetadata: {A: f, B: f, C: f}}
enableTracing: true
"""


def test_annotation_beats_environment_beats_file() -> None:
    c = make(
        files={MESH: MESH_TEXT},
        proxy={"concurrency": 4, "drainDuration": "9s", "proxyMetadata": {"A": "e", "B": "e"}},
        annotations={"proxy.istio.io/config": "concurrency: 5\nproxyMetadata: {A: a}\n"},
    )
    proxy = c.proxy_config
    assert (proxy["concurrency"], proxy["drainDuration"], proxy["statusPort"]) == (5, "9s", 15030)
    assert proxy["proxyMetadata"] == {"A": "a", "B": "e", "C": "f"}
    assert (c.envoy.drain_duration, c.status.port) == (9.0, 15030)


def test_another_mesh_file() -> None:
    c = make("sidecar", "--meshConfig", "other", files={"other": b"defaultConfig: {meshId: m}", MESH: b"{bad"})
    assert c.proxy_config["meshId"] == "m"


@pytest.mark.parametrize("text", [b"", b"a: 1", b"defaultConfig:", b"# nothing\n", b"trustDomain: td"])
def test_mesh_file_without_defaults(text: bytes) -> None:
    assert make(files={MESH: text}).proxy_config["statusPort"] == 15020


def test_either_spelling_of_the_defaults() -> None:
    text = b"default_config: {status_port: 15030, meshId: a}\ndefaultConfig: {meshId: b}"
    proxy = make(files={MESH: text}).proxy_config
    assert (proxy["statusPort"], proxy["meshId"]) == (15030, "b")


def test_unknown_fields_of_the_mesh_file_are_named_in_a_debug_line() -> None:
    c = make(files={MESH: b"defaultConfig: {newField: 1}\nfuture: {a: 1}\ntrustDomain: td"})
    assert c.notes == (
        f"the unknown field newField in defaultConfig of {MESH} is ignored",
        f"the unknown field future in {MESH} is ignored",
    )


BOMB = "a: &a [x]\n" + "\n".join(
    f"b{i}: &b{i} [{', '.join(['*a' if i == 0 else f'*b{i - 1}'] * 10)}]" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[1]", f"{MESH} must be a mapping of fields, not a list"),
        (b"just text", f"{MESH} must be a mapping of fields, not a str"),
        (b"defaultConfig: 5", f"{MESH}: defaultConfig must be a mapping of fields, not 5"),
        (b"defaultConfig: []", f"{MESH}: defaultConfig must be a mapping of fields, not []"),
        (b"defaultConfig: {statusPort: x}", "statusPort must be a whole number, not 'x'"),
        (b"enableTracing: maybe", f"{MESH}: enableTracing must be true or false, not 'maybe'"),
        (b"\x7fELF\x02\x01\x00\xff\xfe", f"the mesh config {MESH} is no text: write it as YAML or JSON in UTF-8"),
        (b"\x00" * 64, f"{MESH} is neither JSON nor YAML: unacceptable character #x0000"),
        (b"defaultConfig: {concurrency: 3, stat", f"{MESH} is neither JSON nor YAML at line 1"),
        (b'{"defaultConfig": {"concurrency": 3', f"{MESH} is neither JSON nor YAML at line 1"),
        (b"defaultConfig:\n  proxyMetadata:\n    A: 'x", f"{MESH} is neither JSON nor YAML at line 3"),
        (b"[" * 100_000, f"{MESH} is nested too deeply"),
        (b"{a: " * 20_000 + b"1" + b"}" * 20_000, f"{MESH} is nested too deeply"),
        (BOMB.encode(), f"{MESH} refers to itself or repeats itself"),
        (b"defaultConfig: &a {runtimeValues: *a}", f"{MESH} refers to itself or repeats itself"),
        # Unusable by itself, although PROXY_CONFIG says something better.
        (b"defaultConfig: {discoveryAddress: nohost}", "discoveryAddress 'nohost' is not usable"),
    ],
)
def test_bad_mesh_files(text: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(files={MESH: text}, proxy={"discoveryAddress": "istiod.istio-system.svc:15012"})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mesh_files_that_cannot_be_read(tmp_path: Path) -> None:
    def sentence(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load(["sidecar", f"--meshConfig={path}"], {}, read_file, lambda _: ("10.0.0.1",))
        return str(caught.value)

    huge = tmp_path / "huge"
    with huge.open("wb") as f:
        f.truncate(MAX_FILE + 1)
    assert sentence(huge) == f"cannot read the mesh config {huge}: it has more than 16 MiB; name a readable file"
    assert sentence(tmp_path) == f"cannot read the mesh config {tmp_path}: Is a directory; name a readable file"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert sentence(loop).startswith(f"cannot read the mesh config {loop}: Too many levels of symbolic links")


@pytest.mark.parametrize(
    ("flag", "config", "limit", "want"),
    [
        ("", None, None, 0),
        ("3", None, None, 3),
        ("3", 1, "2", 3),
        ("", 1, "2", 1),
        ("", None, "2", 2),
        ("0", 0, "2", 0),
        ("", None, "many", 0),
        ("", -1, None, 0),
    ],
)
def test_concurrency(flag: str, config: int | None, limit: str | None, want: int) -> None:
    args = ("sidecar", f"--concurrency={flag}") if flag else ("sidecar",)
    proxy = {} if config is None else {"concurrency": config}
    assert make(*args, proxy=proxy, env={"ISTIO_CPU_LIMIT": limit}).bootstrap.concurrency == want


def test_service_cluster_flag_fills_an_empty_one_only() -> None:
    assert make("--serviceCluster=x", proxy={"serviceCluster": ""}).proxy_config["serviceCluster"] == "x"
    assert make("--serviceCluster=x", proxy={"serviceCluster": "y"}).proxy_config["serviceCluster"] == "y"
    with pytest.raises(ConfigError, match="serviceCluster"):
        make("--serviceCluster=", proxy={"serviceCluster": ""})


def test_statsd_is_resolved_or_dropped() -> None:
    assert make(proxy={"statsdUdpAddress": "localhost:8125"}).proxy_config["statsdUdpAddress"] == "127.0.0.1:8125"
    c = make(proxy={"statsdUdpAddress": "nowhere:8125"})
    assert "statsdUdpAddress" not in c.proxy_config
    assert any("statsdUdpAddress" in w for w in c.warnings)


@pytest.mark.parametrize(("port", "want"), [("15032", 15032), ("0", 0), ("x", 0), ("", 0), ("99999", 0)])
def test_status_port_annotation(port: str, want: int) -> None:
    c = make(annotations={"status.sidecar.istio.io/port": port})
    assert c.status.port == want
    assert bool(c.warnings) is (want == 0)


def test_discovery_address_annotation() -> None:
    c = make(annotations={"sidecar.istio.io/discoveryAddress": "other:15012"})
    assert c.xds.plane.addresses == ("other:15012",)
    with pytest.raises(ConfigError, match="discoveryAddress"):
        make(annotations={"sidecar.istio.io/discoveryAddress": "other"})


def test_stackdriver_needs_a_project() -> None:
    with pytest.raises(ConfigError, match="GCP project"):
        make(proxy={"tracing": {"stackdriver": {}}})
    make(proxy={"tracing": {"stackdriver": {}}}, env={"GCP_METADATA": "p|1|c|z"})
