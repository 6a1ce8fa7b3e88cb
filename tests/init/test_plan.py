import pytest
from hypothesis import given

from init.plan import Plan, Routes, plan
from init.record import replace
from init.rules import Rule, RuleSet, parse, render
from init.settings import InitConfig, Ranges
from tests.fakes.iptables import CONFIGS

INJECTED = InitConfig(
    inbound_ports=("*",), inbound_exclude=("15090", "15021", "15020"), include=Ranges(all=True), host_ip="10.0.0.1"
)
SIDECAR = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
MANGLE = """\
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:ISTIO_DIVERT - [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_TPROXY - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A PREROUTING -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A OUTPUT -o lo -p tcp -m mark --mark 0x539 -j RETURN
-A OUTPUT ! -d ::1/128 -o lo -p tcp -m owner --uid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
-A OUTPUT ! -d ::1/128 -o lo -p tcp -m owner --gid-owner 1337 -j MARK --set-xmark 0x53a/0xffffffff
-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A ISTIO_DIVERT -j MARK --set-xmark 0x539/0xffffffff
-A ISTIO_DIVERT -j ACCEPT
-A ISTIO_INBOUND -p tcp -m mark --mark 0x539 -j RETURN
-A ISTIO_INBOUND -s ::6/128 -i lo -p tcp -j RETURN
-A ISTIO_INBOUND -i lo -p tcp -m mark ! --mark 0x53a -j RETURN
-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j ISTIO_TPROXY
-A ISTIO_TPROXY ! -d ::1/128 -p tcp -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xffffffff
COMMIT
"""
RAW = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_OUTPUT_DNS - [0:0]
-A PREROUTING -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_INBOUND -s 10.0.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp -m udp --sport 15053 -m owner --uid-owner 1337 -j CT --zone 2
-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -m owner --gid-owner 1337 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp -m udp --sport 15053 -m owner --gid-owner 1337 -j CT --zone 2
-A ISTIO_OUTPUT_DNS -d 10.0.0.10/32 -p udp -m udp --dport 53 -j CT --zone 2
COMMIT
"""


def test_the_sidecar_default() -> None:
    found = plan(INJECTED)
    assert render(found.v4) == SIDECAR
    assert found.v6 is None
    assert found.of(6) == RuleSet()
    assert found.routes == Routes(1337, 133, (), False)
    assert found.count() == 18


def with_(**changes: object) -> Plan:
    return plan(replace(INJECTED, **changes))  # type: ignore[arg-type]


def table(found: Plan, name: str, family: int = 4) -> str:
    return render(RuleSet((found.of(family).table(name),)))


def output(found: Plan) -> list[str]:
    return [r.text() for r in found.v4.table("nat").rules("ISTIO_OUTPUT")]


def test_ipv6_is_the_same_with_its_own_addresses() -> None:
    found = with_(v6=True)
    assert found.v6 is not None
    assert render(found.v6) == SIDECAR.replace("127.0.0.6/32", "::6/128").replace("127.0.0.1/32", "::1/128")
    assert found.routes.passthrough6


def test_tproxy() -> None:
    found = with_(tproxy=True, inbound_ports=("80",), v6=True)
    assert table(found, "mangle", 6) == MANGLE
    assert found.routes == Routes(1337, 133, (4, 6), True)
    assert found.v4.table("nat").rules("PREROUTING") == ()
    assert with_(tproxy=True, inbound_ports=()).routes.families == ()


def test_dns_of_one_server() -> None:
    found = with_(dns=True, dns_servers=Ranges(v4=("10.0.0.10/32",)), v6=True)
    assert table(found, "raw") == RAW
    lines = output(found)
    assert "-o lo -p tcp -m tcp ! --dport 53 -m owner ! --uid-owner 1337 -j RETURN" in lines
    assert lines[-3:] == ["-j ISTIO_OUTPUT_DNS", "-d 127.0.0.1/32 -j RETURN", "-j ISTIO_REDIRECT"]
    assert "multiport ! --dports 53,15008 -m owner --uid-owner" in lines[1]
    # the other family has no server: its owner zones stay, and nothing is captured
    assert found.v6 is not None
    assert found.v6.table("nat").rules("ISTIO_OUTPUT_DNS") == ()
    assert found.v6.table("raw").rules("PREROUTING") == ()
    assert len(found.v6.table("raw").rules("ISTIO_OUTPUT_DNS")) == 4


def test_port_list_ignores_the_excluded_ports() -> None:
    rules = with_(inbound_ports=("80", "443")).v4.table("nat").rules("ISTIO_INBOUND")
    assert [r.text() for r in rules] == [
        "-p tcp -m tcp --dport 15008 -j RETURN",
        "-p tcp -m tcp --dport 80 -j ISTIO_IN_REDIRECT",
        "-p tcp -m tcp --dport 443 -j ISTIO_IN_REDIRECT",
    ]


def test_outbound_order_is_ports_then_owners_then_excludes_then_includes() -> None:
    found = with_(
        outbound_exclude=("9",),
        groups=("5", "6"),
        exclude=Ranges(v4=("10.1.0.0/16",)),
        outbound_ports=("90",),
        include=Ranges(v4=("10.0.0.0/8", "0.0.0.0/0")),
    )
    lines = output(found)
    assert lines[:3] == [
        "-p tcp -m tcp --dport 9 -j RETURN",
        "-p udp -m udp --dport 9 -j RETURN",
        "-s 127.0.0.6/32 -o lo -j RETURN",
    ]
    assert lines[9:] == [
        "-m owner ! --gid-owner 5 -m owner ! --gid-owner 6 -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        "-d 10.1.0.0/16 -j RETURN",
        "-p tcp -m tcp --dport 90 -j ISTIO_REDIRECT",
        "-d 10.0.0.0/8 -j ISTIO_REDIRECT",
        "-j ISTIO_REDIRECT",
    ]


def test_a_loopback_range_takes_the_local_traffic_in() -> None:
    lines = output(with_(include=Ranges(v4=("127.0.0.0/8",), loopback=True)))
    assert not any("! --uid-owner" in line or "! --gid-owner" in line for line in lines)


def test_interfaces() -> None:
    found = with_(virtual_interfaces=("tap0", "tap1"), exclude_interfaces=("net1",), tproxy=True)
    rules = found.v4.table("nat").rules("PREROUTING")
    assert [(r.inside, r.target, r.head) for r in rules] == [
        ("tap1", "ISTIO_REDIRECT", True),
        ("tap0", "ISTIO_REDIRECT", True),
        ("tap1", "RETURN", True),
        ("tap0", "RETURN", True),
        ("net1", "RETURN", False),
    ]
    assert found.v4.table("mangle").rules("OUTPUT")[0] == Rule("RETURN", outside="net1")


def test_drop_invalid() -> None:
    mangle = with_(drop_invalid=True).v4.table("mangle")
    assert [r.text() for r in mangle.rules("PREROUTING")] == ["-m conntrack --ctstate INVALID -j ISTIO_DROP"]
    assert mangle.rules("ISTIO_DROP") == (Rule("DROP"),)


def test_more_groups_than_one_rule_can_hold() -> None:
    found = with_(groups=tuple(str(n) for n in range(64)))
    nat = found.v4.table("nat")
    members = [r for r in nat.rules("ISTIO_OUTPUT") if r.target == "ISTIO_OUTPUT_GROUP"]
    assert len(members) == 64
    assert nat.rules("ISTIO_OUTPUT_GROUP")[-1] == Rule("ISTIO_REDIRECT")
    assert max(len(r.matches) for _, _, r in found.v4.each()) <= 49


@given(CONFIGS)
def test_every_plan_is_canonical(config: InitConfig) -> None:
    found = plan(config)
    for rules in (found.v4, found.v6 or RuleSet()):
        assert parse(render(rules)) == rules


@given(CONFIGS)
def test_every_jump_has_its_chain(config: InitConfig) -> None:
    found = plan(config)
    for rules in (found.v4, found.v6 or RuleSet()):
        for t, _, rule in rules.each():
            if rule.target.startswith("ISTIO_"):
                assert rules.table(t).rules(rule.target), rule


@given(CONFIGS)
def test_the_proxy_returns_before_anything_is_redirected(config: InitConfig) -> None:
    """Only the self-call rules may take what the proxy's own uids send."""
    for rules in (plan(config).v4, plan(config).of(6)):
        chain = rules.table("nat").rules("ISTIO_OUTPUT")
        for uid in config.uids if chain else ():
            end = chain.index(Rule("RETURN", matches=(("owner", "--uid-owner", uid),)))
            assert {r.target for r in chain[:end]} <= {"RETURN", "ISTIO_IN_REDIRECT"}


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_a_range_of_everything_is_no_condition(network: str) -> None:
    found = with_(exclude=Ranges(v4=(network,), v6=(network,)))
    assert "-j RETURN" in output(found)
