"""Layers of the effective ProxyConfig, and what flags and annotations do to it."""

import pytest

from agent.errors import ConfigError
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


@pytest.mark.parametrize("text", [b"", b"a: 1", b"defaultConfig:"])
def test_mesh_file_without_defaults(text: bytes) -> None:
    assert make(files={MESH: text}).proxy_config["statusPort"] == 15020


@pytest.mark.parametrize("text", [b"[1]", b"{x", b"defaultConfig: 5", b"defaultConfig: {statusPort: x}"])
def test_bad_mesh_files(text: bytes) -> None:
    with pytest.raises(ConfigError, match="mesh"):
        make(files={MESH: text})


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
