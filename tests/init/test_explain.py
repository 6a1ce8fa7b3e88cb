import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from init.explain import Packet, Verdict, explain, matches, packed, within
from init.plan import plan
from init.record import replace
from init.rules import RuleSet, parse, parse_rule, split
from init.settings import InitConfig, Ranges
from tests.fakes.iptables import CONFIGS

POD, FAR = packed("10.0.0.2"), packed("203.0.113.1")
SIDECAR = plan(InitConfig(inbound_ports=("*",), inbound_exclude=("15020",), include=Ranges(all=True), v6=True))
OUT = Packet(FAR, 80, source=POD, uid=1000, gid=1000, outside="eth0", local=False)
SELF = Packet(POD, 8080, source=POD, uid=1337, gid=1337, outside="lo")
PEER = Packet(POD, 8080, source=FAR, inside="eth0")


def fate(packet: Packet, rules: RuleSet = SIDECAR.v4) -> tuple[str, int]:
    verdict = explain(rules, packet)
    return verdict.kind, verdict.port


def test_the_sidecar_default() -> None:
    assert fate(OUT) == ("redirected", 15001)
    assert fate(replace(OUT, protocol="udp")) == ("direct", 0)
    assert fate(replace(OUT, uid=1337)) == fate(replace(OUT, gid=1337)) == ("direct", 0)
    assert fate(SELF) == ("redirected", 15006)
    assert fate(replace(SELF, port=15008)) == ("direct", 0)
    assert fate(replace(SELF, source=packed("127.0.0.6"))) == ("direct", 0)
    assert fate(replace(SELF, uid=1000)) == ("direct", 0)
    assert fate(PEER) == ("redirected", 15006)
    assert fate(replace(PEER, port=15020)) == ("direct", 0)
    assert fate(replace(PEER, destination=FAR, local=False, port=15020)) == ("forwarded", 0)


def test_the_steps_are_those_that_matched_in_order() -> None:
    assert [(s.table, s.chain, s.text) for s in explain(SIDECAR.v4, OUT).steps] == [
        ("nat", "OUTPUT", "-j ISTIO_OUTPUT"),
        ("nat", "ISTIO_OUTPUT", "-j ISTIO_REDIRECT"),
        ("nat", "ISTIO_REDIRECT", "-p tcp -j REDIRECT --to-ports 15001"),
    ]


def test_tproxy_takes_what_comes_in_and_what_the_proxy_sends_to_itself() -> None:
    rules = plan(InitConfig(inbound_ports=("*",), include=Ranges(all=True), tproxy=True)).v4
    assert fate(PEER, rules) == ("tproxied", 15006)
    assert fate(SELF, rules) == ("redirected", 15006)  # nat comes first
    tunnel = replace(SELF, port=15008)
    assert fate(tunnel, rules) == ("tproxied", 15006)  # marked on its way out, taken when it loops back
    assert fate(replace(tunnel, uid=1000, gid=1000), rules) == ("direct", 0)


def table(*lines: str, name: str = "nat", policy: str = "ACCEPT") -> RuleSet:
    chains = f"*{name}\n:PREROUTING ACCEPT\n:INPUT {policy} [0:0]\n:OUTPUT ACCEPT\n:MINE -\n:NEXT -\n"
    return parse(chains + "".join(f"-A {x}\n" for x in lines) + "COMMIT\n")


def test_jumps_gotos_and_returns() -> None:
    last = "OUTPUT -p tcp -j REDIRECT --to-ports 7"
    assert fate(OUT, table("OUTPUT -j MINE", "MINE -j RETURN", "MINE -j DROP", last)) == ("redirected", 7)
    assert fate(OUT, table("OUTPUT -g MINE", "MINE -j LOG", last)) == ("direct", 0)
    assert fate(OUT, table("OUTPUT -j MINE", "MINE -g NEXT", "MINE -j DROP", "NEXT -j RETURN", last)) == (
        "redirected",
        7,
    )
    assert fate(OUT, table("OUTPUT -j MINE", "MINE -j ACCEPT", last)) == ("direct", 0)
    assert fate(OUT, table("OUTPUT -j MINE", "MINE -j DROP", last)) == ("dropped", 0)
    assert fate(OUT, table("OUTPUT -j RETURN", last)) == ("direct", 0)


def test_other_targets() -> None:
    verdict = explain(table("OUTPUT -p tcp -j DNAT --to-destination 1.2.3.4:5"), OUT)
    assert (verdict.kind, verdict.detail) == ("rewritten", "1.2.3.4:5")
    assert fate(PEER, table(name="filter", policy="DROP")) == ("dropped", 0)
    assert fate(OUT, table("OUTPUT -p tcp -j REDIRECT")) == ("redirected", 80)
    raw = parse("*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j NOTRACK\nCOMMIT\n")
    untracked = RuleSet((*raw.tables, *table("OUTPUT -p tcp -j REDIRECT").tables))
    assert fate(OUT, untracked) == ("direct", 0)  # what is not tracked is not translated


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-p tcp -m tcp --dport 80", True),
        ("-p tcp -m tcp --dport 81:99", False),
        ("-p tcp -m tcp ! --dport 80", False),
        ("-p tcp -m multiport --dports 1,70:90", True),
        ("-p udp", False),
        ("! -p udp", True),
        ("-d 203.0.113.0/24 -o eth+", True),
        ("! -d 203.0.113.0/24", False),
        ("! -d fd00::/8", False),  # an address of the other family, inverted or not
        ("-s 0.0.0.0/0", True),
        ("-o lo", False),
        ("! -o lo", True),
        ("-i eth0", False),
        ("-m owner --uid-owner 999-1000", True),
        ("-m owner ! --gid-owner 1000", False),
        ("-m mark ! --mark 0x53a", True),
        ("-m connmark --mark 0x1/0x1", False),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", False),
        ("-m conntrack --ctstate NEW,INVALID", True),
        ("-m comment --comment x -m tcp --dport 80", True),
        ("-m set --match-set x dst", None),
        ("-p udp -m set --match-set x dst", False),
        ("-f", None),
    ],
)
def test_conditions(text: str, expected: bool | None) -> None:
    assert matches(parse_rule(split(text)), OUT) is expected


def test_an_unknown_condition_is_told() -> None:
    verdict = explain(table("OUTPUT -m set --match-set x dst -j DROP"), OUT)
    assert verdict.kind == "direct"
    assert [s.text for s in verdict.unsure] == ["-m set --match-set x dst -j DROP"]


@given(st.ip_addresses())
def test_addresses_are_packed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert packed(str(address)) == packed(address.exploded) == address.packed


@given(st.text(alphabet="0123456789abcdef:./", max_size=20))
def test_no_text_breaks_packing(text: str) -> None:
    try:
        assert len(packed(text)) in (4, 16)
    except (ValueError, OverflowError):
        return


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_ranges(a: ipaddress.IPv4Address, b: ipaddress.IPv4Address, bits: int) -> None:
    network = ipaddress.ip_network((a, bits), strict=False)
    assert within(b.packed, str(network)) == (b in network)


def redirects(verdict: Verdict) -> bool:
    return verdict.kind in ("redirected", "tproxied")


@settings(max_examples=150)
@given(CONFIGS, st.sampled_from([4, 6]), st.integers(1, 65535), st.sampled_from(["tcp", "udp"]), st.data())
def test_the_proxy_reaches_no_redirect_but_its_own_inbound(
    config: InitConfig, family: int, port: int, protocol: str, data: st.DataObject
) -> None:
    """Whatever the settings: what the proxy sends leaves as it is, and only what it sends to its own pod comes back to
    its inbound port."""
    uid = int(data.draw(st.sampled_from(config.uids)))
    rules = plan(config).of(family)
    far, pod, loop = (FAR, POD, "127.0.0.1") if family == 4 else (packed("2001:db8::1"), packed("fd00::2"), "::1")
    base = Packet(far, port, protocol, source=pod, uid=uid, gid=uid, outside="eth0", local=False)
    assert not redirects(explain(rules, base))
    own = explain(rules, replace(base, destination=pod, outside="lo", local=True))
    assert not redirects(own) or own.port == config.inbound_port
    for host in (loop, "127.0.0.6" if family == 4 else "::6"):
        source = replace(base, destination=pod, source=packed(host), outside="lo", local=True)
        passed = explain(rules, source)
        assert not redirects(passed) or (passed.port == config.inbound_port and host == loop)
    assert not redirects(explain(rules, replace(base, destination=packed(loop), outside="lo", local=True)))
