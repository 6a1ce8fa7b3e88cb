"""Every file that is read at start, in every bad state: a configuration or one sentence, and never a long wait."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentConfig
from agent.errors import RemoraError
from agent.settings import load as config_load
from agent.settings import netinfo

ROOT = "var/run/secrets/istio/root-cert.pem"
TRIPLE = ("cert-chain.pem", "key.pem", "root-cert.pem")
SPIFFE = "var/run/secrets/workload-spiffe-credentials"
# path → environment that makes the agent read it
FILES: dict[str, dict[str, str]] = {
    "etc/istio/config/mesh": {},
    "etc/istio/pod/labels": {},
    "etc/istio/pod/annotations": {},
    ROOT: {},
    "roots/xds.pem": {"XDS_ROOT_CA": "roots/xds.pem"},
    "roots/ca.pem": {"CA_ROOT_CA": "roots/ca.pem"},
    "override.yaml": {"ISTIO_BOOTSTRAP_OVERRIDE": "override.yaml"},
    "bootstrap.json": {"ISTIO_BOOTSTRAP": "bootstrap.json"},
    **{f"etc/certs/{name}": {} for name in TRIPLE},
    **{f"{SPIFFE}/{name}": {} for name in TRIPLE},
    **{
        f"{SPIFFE}/{name}": {"CA_PROVIDER": "GkeWorkloadCertificate"}
        for name in ("certificates.pem", "private_key.pem")
    },
    **{f"prov/{name}": {"PROV_CERT": "prov"} for name in TRIPLE},
}
HALF = b'defaultConfig:\n  tracing: {zipkin: {address: "a:1'


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 << 30)  # sparse: costs nothing unless it is read


STATES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "half-written": lambda path: path.write_bytes(HALF),
    "deeply nested": lambda path: path.write_bytes(b"[" * 200_000),
    "aliases": lambda path: path.write_bytes(b"a: &a [1]\nb: [*a, *a]\ndefaultConfig: *a\n"),
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "huge": huge,
}


def load(environ: dict[str, str], read: Callable[[str], bytes | None] = config_load.read_file) -> AgentConfig | str:
    """The configuration, or the sentence why there is none."""
    environ = {"CLOUD_PLATFORM": "none", "INSTANCE_IP": "10.0.0.1", **environ}
    try:
        return config_load.load(
            ["sidecar"],
            environ,
            read,
            lambda _: (),
            probe_socket=lambda _: False,
            resolve_udp=netinfo.resolve_udp,
            uid=1,
        )
    except RemoraError as error:
        refusal = error
    assert "\n" not in str(refusal)
    assert refusal.exit_code in (1, 255)
    return str(refusal)


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / ROOT).write_bytes(b"root")
    (tmp_path / "prov/root-cert.pem").write_bytes(b"root")
    return tmp_path


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", FILES)
def test_a_configuration_or_one_sentence(world: Path, name: str, state: str) -> None:
    path = world / name
    path.unlink(missing_ok=True)
    STATES[state](path)
    found = load(FILES[name])
    if isinstance(found, str):
        assert name in found or path.parent.name in found, found


@pytest.mark.parametrize("name", FILES)
def test_unreadable(name: str) -> None:
    def read(path: str) -> bytes | None:
        if os.path.normpath(path) == name:
            raise PermissionError(13, "Permission denied")
        return config_load.read_file(path)

    found = load(FILES[name], read)
    if isinstance(found, str):
        assert name in found
    elif "pod/" in name or name == "override.yaml":
        assert any(name in warning for warning in found.warnings)


def test_which_states_stop_the_start(world: Path) -> None:
    for state in ("half-written", "directory", "huge"):
        for name in ("etc/istio/config/mesh", "bootstrap.json"):
            STATES[state](world / name)
            assert isinstance(load(FILES[name]), str), (name, state)
            (world / name).rmdir() if state == "directory" else (world / name).unlink()


VALUES = ("", " ", "x", "-1", "1e999", "nan", "99999999999999999999", "\udcff", "true\n", "1h-", "{", "a" * 60_000)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_any_value_of_any_variable(value: str) -> None:
    """All that the loader reads, one by one: a default and a warning, or one sentence."""
    plain = load({})
    assert isinstance(plain, AgentConfig)
    for name in plain.sources.environment:
        found = load({name: value})
        assert not isinstance(found, str) or name in found or value[:20] in found, name


def test_numbers_that_do_not_parse_are_defaults() -> None:
    plain = load({})
    assert isinstance(plain, AgentConfig)
    typed = [n for n, (v, _) in plain.sources.environment.items() if isinstance(v, bool | int | float)]
    assert len(typed) > 25
    for name in typed:
        found = load({name: "many"})
        assert isinstance(found, AgentConfig)
        assert [w for w in found.warnings if name in w], name
        assert found.sources.environment[name][1].startswith("default")
