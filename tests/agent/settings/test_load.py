"""The tree as a whole: role, addresses, logs, DNS, guard, Envoy; and files as they are on a disk."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.flags import HelpWanted
from agent.config import GuardMode, Role, XdsCacheConfig
from agent.errors import ConfigError, RemoraError
from agent.settings.load import load, read_file
from tests.fakes.configs import ENV, ROOT, make


@pytest.mark.parametrize(
    ("args", "role"),
    [
        ((), Role.SIDECAR),
        (("router",), Role.ROUTER),
        (("--nosuch", "router"), Role.SIDECAR),
        (("--domain=x", "waypoint"), Role.WAYPOINT),
    ],
)
def test_role(args: tuple[str, ...], role: Role) -> None:
    assert load(args, ENV, {ROOT: b""}.get, lambda _: (), probe_socket=lambda _: False, uid=1).node.role is role


@pytest.mark.parametrize("word", ["Sidecar", "gateway", ""])
def test_unknown_role(word: str) -> None:
    with pytest.raises(RemoraError, match=f"invalid proxy Type: {word}") as caught:
        make(word)
    assert caught.value.exit_code == 255


def test_help() -> None:
    with pytest.raises(HelpWanted, match="--domain"):
        make("sidecar", "--help")


@pytest.mark.parametrize(
    ("instance", "interfaces", "ips"),
    [
        ("10.77.0.2", {"eth0": "10.77.0.2"}, ("10.77.0.2",)),
        ("192.0.2.7", {"eth0": "10.77.0.2"}, ("192.0.2.7", "10.77.0.2")),
        ("FD00:77:0::0002", {"eth0": "fd00:77::2"}, ("fd00:77::2",)),
        ("garbage", {"eth0": "10.77.0.2", "eth1": "fd00::1"}, ("10.77.0.2", "fd00::1")),
        (None, {"eth0": "10.77.0.2"}, ("10.77.0.2",)),
        (None, {"skip0": "10.77.0.2"}, ("127.0.0.1", "::1")),
    ],
)
def test_addresses(instance: str | None, interfaces: Mapping[str, str], ips: tuple[str, ...]) -> None:
    annotations = {"traffic.sidecar.istio.io/excludeInterfaces": "skip0, nosuch"}
    assert make(env={"INSTANCE_IP": instance}, interfaces=interfaces, annotations=annotations).node.ips == ips


def test_bad_podinfo_is_a_warning() -> None:
    c = make(files={"./etc/istio/pod/labels": b"a=x\n", "./etc/istio/pod/annotations": b'k="v"\n'})
    assert (c.node.labels, c.node.annotations, c.node.has_podinfo) == ({}, {"k": "v"}, False)
    assert len(c.warnings) == 1


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("debug", {"default": "debug", "grpc": "none"}),
        ("xdsproxy:debug,grpc:info", {"default": "info", "grpc": "info", "xdsproxy": "debug"}),
        ("all:none", {"default": "info", "grpc": "none", "all": "none"}),
        ("", {"default": "info", "grpc": "none"}),
    ],
)
def test_log_levels(text: str, levels: Mapping[str, str]) -> None:
    assert make(f"--log_output_level={text}").log.levels == levels


def test_log_flags() -> None:
    log = make("--log_as_json", "--log_target=stderr", "--log_target", "f").log
    assert (log.json, log.targets) == (True, ("stderr", "f"))


@pytest.mark.parametrize("text", ["default:loud", "loud", ":info", "a:b:c"])
def test_bad_log_levels(text: str) -> None:
    with pytest.raises(RemoraError, match="--log_output_level"):
        make(f"--log_output_level={text}")


@pytest.mark.parametrize(
    ("role", "env", "enabled"),
    [
        ("sidecar", {"ISTIO_META_DNS_CAPTURE": "true"}, True),
        ("router", {"ISTIO_META_DNS_CAPTURE": "true"}, False),
        ("router", {"ISTIO_META_ENABLE_DNS_SERVER": "1"}, True),
        ("sidecar", {"ISTIO_META_DNS_CAPTURE": ""}, False),
        ("sidecar", {}, False),
    ],
)
def test_dns(role: str, env: Mapping[str, str], enabled: bool) -> None:
    c = make(role, env=env)
    assert c.dns.enabled is enabled
    assert c.xds.subscribe_names is enabled
    assert (c.dns.proxy_namespace, c.dns.proxy_domain, c.dns.address) == (
        "demo",
        "demo.svc.cluster.local",
        "localhost:15053",
    )


def test_dns_on_port_53() -> None:
    env = {"ISTIO_META_DNS_CAPTURE": "true", "DNS_PROXY_ADDR": "127.0.0.1:53"}
    root = make(env=env, files={"/var/lib/istio/resolv.conf": b""}, uid=0)
    assert (root.dns.address, root.dns.resolv_conf, root.dns.forward_early) == (
        "127.0.0.1:53",
        "/var/lib/istio/resolv.conf",
        True,
    )
    assert root.envoy.run_as == (1337, 1337)
    user = make(env=env)
    assert (user.dns.address, user.dns.forward_early, user.envoy.run_as) == ("localhost:15053", False, None)
    assert any("needs root" in w for w in user.warnings)


@pytest.mark.parametrize(
    ("env", "mode", "words"),
    [
        ({}, GuardMode.OFF, ()),
        ({"REDIRECT_ARGS": "-p 15001 -x '' -b '*'"}, GuardMode.APPLY, ("-p", "15001", "-x", "", "-b", "*")),
        ({"REDIRECT_ARGS": "istio-iptables -p 1", "REDIRECT_GUARD": "detect"}, GuardMode.DETECT, ("-p", "1")),
        ({"REDIRECT_ARGS": "-p 1", "REDIRECT_GUARD": "off"}, GuardMode.OFF, ("-p", "1")),
    ],
)
def test_guard(env: Mapping[str, str], mode: GuardMode, words: tuple[str, ...]) -> None:
    guard = make(env={**env, "REDIRECT_GUARD_PERIOD": "2s"}).guard
    assert (guard.mode, guard.init_args, guard.period) == (mode, words, 2.0)


@pytest.mark.parametrize("env", [{"REDIRECT_GUARD": "maybe"}, {"REDIRECT_ARGS": "'unclosed"}])
def test_bad_guard(env: Mapping[str, str]) -> None:
    with pytest.raises(RemoraError, match="REDIRECT"):
        make(env=env)


def test_the_cache_for_outages() -> None:
    cache = make().xds.cache
    assert cache == XdsCacheConfig(owner="sidecar~10.77.0.2~app-1.demo~demo.svc.cluster.local")
    env = {
        "XDS_CACHE": "OFF",
        "XDS_CACHE_MAX_BYTES": "1000",
        "XDS_CACHE_MAX_AGE": "1h",
        "XDS_CACHE_AFTER": "500ms",
        "STATE_DIR": "./etc/istio/proxy",
        "XDS_STATE_ALLOW_DISK": "true",
    }
    assert make(env=env).xds.cache == XdsCacheConfig(
        enabled=False,
        max_bytes=1000,
        max_age=3600.0,
        after=0.5,
        state_dir="./etc/istio/proxy",
        allow_disk=True,
        owner=cache.owner,
    )
    odd = make(env={"XDS_CACHE_MAX_BYTES": "lots", "XDS_CACHE_AFTER": "-1s", "XDS_CACHE": ""})
    assert odd.xds.cache == XdsCacheConfig(after=0.0, owner=cache.owner)
    assert [w for w in odd.warnings if "XDS_CACHE_MAX_BYTES" in w]
    with pytest.raises(ConfigError, match=r"^XDS_CACHE 'perhaps' is not usable: write on or off$"):
        make(env={"XDS_CACHE": "perhaps"})


def test_envoy_section() -> None:
    env = {
        "ENVOY_STATUS_PORT": "1",
        "ENVOY_PROMETHEUS_PORT": "2",
        "MINIMUM_DRAIN_DURATION": "3s",
        "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true",
        "TERMINATION_GRACE_PERIOD_SECONDS": "30",
        "ENVOY_RESTARTS": "0",
        "ENVOY_RESTART_WINDOW": "1m",
        "DISABLE_ENVOY": "true",
    }
    e = make(
        "router", env=env, proxy={"proxyAdminPort": 15444, "terminationDrainDuration": "1.5s", "customConfigFile": "c"}
    ).envoy
    assert (e.status_port, e.stats_port, e.admin_port, e.admin_host, e.custom_config_file) == (
        1,
        2,
        15444,
        "127.0.0.1",
        "c",
    )
    assert (e.minimum_drain_duration, e.termination_drain_duration, e.grace_period, e.exit_on_zero_connections) == (
        3,
        1.5,
        30,
        True,
    )
    assert (e.restarts, e.restart_window, e.enabled, e.inbound_only_drain) == (0, 60, False, False)


def test_read_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    assert read_file(str(tmp_path / "f")) == b"x"
    for nothing in ("none", "f/below", "pipe"):
        assert read_file(str(tmp_path / nothing)) is None
    with pytest.raises(OSError, match="directory"):
        read_file(str(tmp_path))


NAMES = [
    "PROXY_CONFIG",
    "REDIRECT_ARGS",
    "ISTIO_META_POD_PORTS",
    "SECRET_TTL",
    "INSTANCE_IP",
    "CA_ADDR",
    "ENVOY_RESTARTS",
    "DNS_PROXY_ADDR",
    "ISTIO_META_ENABLE_HBONE",
    "ISTIOD_SAN",
    "OUTPUT_CERTS",
    "ISTIO_KUBE_APP_PROBERS",
]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(NAMES), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
    ),
    st.lists(st.text(max_size=8), max_size=3),
)
def test_any_environment_gives_a_tree_or_a_sentence(env: dict[str, str], args: list[str]) -> None:
    with suppress(HelpWanted, RemoraError):
        make("sidecar", *args, env=env)
