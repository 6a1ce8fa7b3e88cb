"""Which ports a configuration will bind, and what is wrong with them."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from agent.envoy import bootstrap
from agent.settings.ports import TAKEN, Port, faults, refusal, wanted
from tests.fakes.configs import make


def ports(**kwargs: Any) -> list[Port]:
    config = make(**kwargs)
    return list(wanted(config, bootstrap.render(config) if config.envoy.enabled else {}))


def wrong(found: list[Port]) -> list[str]:
    return list(faults(found, lambda _: ""))


def test_a_plain_pod_wants_these() -> None:
    found = ports()
    assert [(p.host, p.number) for p in found] == [
        ("::", 15020),
        ("127.0.0.1", 15000),
        ("0.0.0.0", 15090),
        ("0.0.0.0", 15021),
    ]
    assert wrong(found) == []


def test_every_option_that_binds_is_known(tmp_path: Any) -> None:
    env = {
        "ISTIO_META_DNS_CAPTURE": "true",
        "DNS_PROXY_ADDR": "127.0.0.1:15053",
        "ENVOY_SECURE_METRICS_PORT": "15091",
        "ENVOY_SECURE_MERGED_METRICS_PORT": "15092",
        "ISTIO_DUAL_STACK": "true",
        "INSTANCE_IP": "10.0.0.1",
    }
    found = ports(env=env, interfaces={"eth0": "fd00::1"})
    numbers = {(p.number, p.udp) for p in found}
    assert numbers >= {(n, False) for n in (15000, 15020, 15021, 15053, 15090, 15091, 15092)} | {(15053, True)}
    assert {p.host for p in found if p.number == 15021} == {"0.0.0.0", "::"}
    assert wrong(found) == []  # both families of one listener are no collision
    assert {p.number for p in ports(env={"DISABLE_ENVOY": "true"})} == {15020}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"proxy": {"statusPort": 15000}},
            "the status port (statusPort) and Envoy's admin port (proxyAdminPort) are both 15000: move one of them",
        ),
        (
            {"proxy": {"proxyAdminPort": 15090}},
            "Envoy's admin port (proxyAdminPort) and Envoy's listener 0.0.0.0_15090 are both 15090: move one of them",
        ),
        (
            {"env": {"ENVOY_STATUS_PORT": "15020"}},
            "the status port (statusPort) and Envoy's listener 0.0.0.0_15020 are both 15020: move one of them",
        ),
        (
            {"env": {"ISTIO_META_DNS_CAPTURE": "true", "DNS_PROXY_ADDR": "127.0.0.1:15021"}},
            "the DNS proxy (DNS_PROXY_ADDR) and Envoy's listener 0.0.0.0_15021 are both 15021: move one of them",
        ),
        (
            {"env": {"ENVOY_PROMETHEUS_PORT": "70000"}},
            "Envoy's listener 0.0.0.0_70000 cannot be 70000: ports go from 1 to 65535",
        ),
    ],
)
def test_two_that_are_one(changes: dict[str, Any], said: str) -> None:
    assert wrong(ports(**changes)) == [said]


def test_different_addresses_do_not_collide() -> None:
    assert wrong([Port("a", "127.0.0.1", 1), Port("b", "127.0.0.2", 1), Port("c", "127.0.0.1", 1, udp=True)]) == []


@pytest.mark.parametrize(
    "custom",
    [
        {},
        {"admin": 1, "static_resources": []},
        {"admin": {"address": {"pipe": {"path": "x"}}}, "static_resources": {"listeners": [1, {"address": None}]}},
        {"static_resources": {"listeners": [{"address": {"socket_address": {"address": 1, "port_value": "x"}}}]}},
    ],
)
def test_a_bootstrap_of_the_users_own_may_hold_anything(custom: dict[str, Any]) -> None:
    assert [p.number for p in wanted(make(), custom)] == [15020]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_kernel_is_asked(taken: int) -> None:
    assert refusal(Port("a", "127.0.0.1", taken)) == TAKEN
    assert refusal(Port("a", "::", taken)) == TAKEN  # every address includes that one
    assert refusal(Port("a", "127.0.0.2", taken)) == ""
    assert refusal(Port("a", "127.0.0.1", taken, udp=True)) == ""
    assert refusal(Port("a", "192.0.2.1", taken)) == "Cannot assign requested address"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
        assert refusal(Port("a", "127.0.0.1", number, udp=True)) == TAKEN
        assert refusal(Port("a", "127.0.0.1", number)) == ""
    assert refusal(Port("a", "no such host", number)) != ""


def test_asking_takes_the_port_from_nobody() -> None:
    with socket.socket() as starting:  # an agent between bind and listen
        starting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        starting.bind(("127.0.0.1", 0))
        assert refusal(Port("a", "127.0.0.1", starting.getsockname()[1])) == ""
        starting.listen()


def test_the_sentence_says_how_to_find_out_more(taken: int) -> None:
    assert list(faults([Port("the status port (statusPort)", "127.0.0.1", taken)], refusal)) == [
        f"the status port (statusPort) cannot be tcp {taken}: Address already in use "
        f"(`ss -Hlnpt sport = :{taken}` names who has it)"
    ]
