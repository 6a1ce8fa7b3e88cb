"""Flags, environment and files behind Envoy's bootstrap."""

import json
from collections.abc import Mapping

import pytest

from agent.errors import ConfigError
from tests.fakes.configs import make


@pytest.mark.parametrize(
    ("args", "level", "components"),
    [
        ((), "warning", ""),
        (("--proxyLogLevel=debug",), "debug", ""),
        (("--proxyLogLevel=info", "--proxyComponentLogLevel", "misc:error"), "info", "misc:error"),
        (
            ("--proxyLogLevel=info,misc:error,upstream:debug", "--proxyComponentLogLevel=x:info"),
            "info",
            "misc:error,upstream:debug",
        ),
        (("--proxyLogLevel=info,warn",), "warn", ""),
        (("--proxyLogLevel=misc:error",), "", "misc:error"),
        (("--proxyLogLevel=a:b:c,info",), "info", ""),
    ],
)
def test_log_levels(args: tuple[str, ...], level: str, components: str) -> None:
    boot = make("sidecar", *args).bootstrap
    assert (boot.log_level, boot.component_log_level) == (level, components)


@pytest.mark.parametrize(
    ("env", "want"),
    [
        ({}, False),
        ({"ISTIO_META_ENABLE_HBONE": "true"}, True),
        ({"PEER_METADATA_DISCOVERY": "true"}, True),
        ({"PEER_METADATA_DISCOVERY": "false", "ISTIO_META_ENABLE_HBONE": "1"}, False),
    ],
)
def test_metadata_discovery(env: Mapping[str, str], want: bool) -> None:
    assert make(env=env).bootstrap.metadata_discovery is want


def test_flushing() -> None:
    boot = make(proxy={"fileFlushInterval": "2.5s", "fileFlushMinSizeKb": 0}).bootstrap
    assert (boot.flush_interval_ms, boot.flush_min_size_kb) == (2500, 0)
    assert (make().bootstrap.flush_interval_ms, make().bootstrap.flush_min_size_kb) == (1000, None)


@pytest.mark.parametrize(
    ("host", "text", "want"),
    [
        ("10.0.0.1", "a: $(HOST_IP):80", "10.0.0.1:80"),
        ("fd00::1", "a: '$(HOST_IP):80'", "[fd00::1]:80"),
        ("fd00::1", "a: '[$(HOST_IP)]:80'", "[fd00::1]:80"),
        ("", "a: '$(HOST_IP)'", ""),
    ],
)
def test_override(host: str, text: str, want: str) -> None:
    boot = make(env={"HOST_IP": host, "ISTIO_BOOTSTRAP_OVERRIDE": "o"}, files={"o": text.encode()}).bootstrap
    assert json.loads(boot.override) == {"a": want}
    assert "\n" not in boot.override


@pytest.mark.parametrize("data", [None, b"{x", b"[1]", b"\xff"])
def test_an_override_that_cannot_be_used_is_a_warning(data: bytes | None) -> None:
    c = make(env={"ISTIO_BOOTSTRAP_OVERRIDE": "o"}, files={"o": data})
    assert c.bootstrap.override == ""
    assert any("ISTIO_BOOTSTRAP_OVERRIDE o is ignored" in w for w in c.warnings)


def test_a_bootstrap_of_the_users_own() -> None:
    files = {name: f'{{"node": {{"id": "{name}"}}}}'.encode() for name in ("e", "p", "f")}
    proxy = {"proxyBootstrapTemplatePath": "p"}

    def chosen(*args: str, env: Mapping[str, str] | None = None, proxy: Mapping[str, str] | None = None) -> object:
        custom = make("sidecar", *args, env=env, proxy=proxy, files=files).bootstrap.custom
        return custom and custom["node"]["id"]

    assert chosen("--templateFile=f", env={"ISTIO_BOOTSTRAP": "e"}, proxy=proxy) == "e"
    assert chosen("--templateFile=f", proxy=proxy) == "f"
    assert chosen(proxy=proxy) == "p"
    assert chosen("--templateFile=f") == "f"
    assert chosen() is None
    assert chosen(env={"ISTIO_BOOTSTRAP": "e"}, proxy={"customConfigFile": "c"}) is None


@pytest.mark.parametrize(
    ("data", "said"), [(None, "does not exist"), (b"{{ .x }}", "Go template"), (b"{x", "neither JSON")]
)
def test_a_bootstrap_that_cannot_be_used(data: bytes | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(env={"ISTIO_BOOTSTRAP": "b"}, files={"b": data})
