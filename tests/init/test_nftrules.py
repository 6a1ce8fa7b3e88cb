from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from init.nftrules import (
    HOOKS,
    WHOLE,
    _converted,
    chain_name,
    diff,
    family,
    model_name,
    native,
    parse,
    render,
    transition,
)
from init.plan import plan
from init.record import replace
from init.rules import Chain, Rule, RuleSet, Table
from init.settings import InitConfig, Ranges
from tests.fakes.iptables import CONFIGS

SIDECAR = InitConfig(inbound_ports=("*",), inbound_exclude=("15020",), include=Ranges(all=True))
FULL = replace(SIDECAR, tproxy=True, dns=True, dns_all=True, v6=True, drop_invalid=True)

# What a sidecar of both families is given, in full.
TEXT = """table inet istio-proxy-nat {
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto tcp counter jump istio-inbound
	}
	chain output {
		type nat hook output priority -100; policy accept;
		counter jump istio-output
	}
	chain istio-inbound {
		tcp dport 15008 counter return
		tcp dport 15020 counter return
		meta l4proto tcp counter jump istio-in-redirect
	}
	chain istio-in-redirect {
		meta l4proto tcp counter redirect to :15006
	}
	chain istio-output {
		oifname "lo" ip saddr 127.0.0.6 counter return
		oifname "lo" ip6 saddr ::6 counter return
		oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
		oifname "lo" ip6 daddr != ::1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
		oifname "lo" meta skuid != 1337 counter return
		meta skuid 1337 counter return
		oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
		oifname "lo" ip6 daddr != ::1 tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
		oifname "lo" meta skgid != 1337 counter return
		meta skgid 1337 counter return
		ip daddr 127.0.0.1 counter return
		ip6 daddr ::1 counter return
		counter jump istio-redirect
	}
	chain istio-redirect {
		meta l4proto tcp counter redirect to :15001
	}
}
"""


def wanted(config: InitConfig) -> RuleSet:
    return native(plan(config))


def test_the_sidecar_of_both_families() -> None:
    assert render(wanted(replace(SIDECAR, v6=True))) == TEXT
    assert "ip6" not in render(wanted(SIDECAR))


@given(CONFIGS)
def test_what_is_written_is_read_back(config: InitConfig) -> None:
    want = wanted(config)
    assert parse(render(want)) == want
    assert transition(want, want) == ""
    assert diff(want, want) == []


@given(CONFIGS)
def test_each_family_meets_its_own_rules_in_the_order_of_its_plan(config: InitConfig) -> None:
    planned = plan(config)
    both = native(planned)
    for number in (4, 6) if config.v6 else (4,):
        for table in planned.of(number).tables:
            for chain in table.chains:
                met = [r for r in both.table(table.name).rules(chain.name) if family(r) in (0, number)]
                plain = [replace(r, source="") if r.source == WHOLE[number] else r for r in met]
                assert plain == [_converted(table.name, chain.name, r) for r in chain.rules]


@given(CONFIGS)
def test_jumps_lead_to_chains_that_exist(config: InitConfig) -> None:
    for table in wanted(config).tables:
        names = {c.name for c in table.chains}
        assert all(r.target in names for c in table.chains for r in c.rules if r.target.startswith("ISTIO_"))
        assert all(c.rules for c in table.chains)


def test_a_rule_of_one_family_without_address_is_for_that_family_only() -> None:
    config = replace(SIDECAR, v6=True, include=Ranges(v4=("0.0.0.0/0",), v6=("fd00::/8",)))
    text = render(wanted(config))
    assert "\t\tmeta nfproto ipv4 counter jump istio-redirect\n" in text
    assert "\t\tip6 daddr fd00::/8 counter jump istio-redirect\n" in text
    assert "\t\tcounter jump istio-redirect" not in text


def test_ports_of_a_set_come_in_order_each_once() -> None:
    for tunnel, text in ((22, "{ 22, 53 }"), (53, "{ 53 }")):
        assert f"tcp dport != {text} meta skuid" in render(
            wanted(replace(SIDECAR, tunnel_port=tunnel, dns=True, dns_all=True))
        )


def tables_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("add", "delete"))]


def test_one_transaction_writes_what_differs_and_removes_what_is_no_longer_wanted() -> None:
    text = transition(wanted(FULL), wanted(SIDECAR))
    assert tables_of(text) == [
        f"{verb} table inet istio-proxy-{t}" for t in ("raw", "mangle", "nat") for verb in ("add", "delete")
    ]
    assert parse("".join(x + "\n" for x in text.splitlines() if not x.startswith(("add", "delete")))) == wanted(SIDECAR)
    only_nat = transition(wanted(FULL), wanted(replace(FULL, proxy_port=15011)))
    assert tables_of(only_nat) == ["add table inet istio-proxy-nat", "delete table inet istio-proxy-nat"]
    assert (
        transition(wanted(SIDECAR), RuleSet()) == "add table inet istio-proxy-nat\ndelete table inet istio-proxy-nat\n"
    )
    assert tables_of(transition(RuleSet((Table("raw"),)), RuleSet())) != []  # an empty table is one too
    assert transition(RuleSet(), RuleSet()) == ""


FOREIGN = """table inet istio-proxy-nat {
	flags dormant
	comment "a note"

	set seen {
		type ipv4_addr
		elements = { 192.0.2.1, 192.0.2.2,
				192.0.2.3 }
	}

	chain prerouting {
		type nat hook prerouting priority -99; policy drop;
		tcp dport vmap { 80 : drop } comment "mine"
	}

	chain Other_chain {
		ip saddr @seen drop
	}

	chain istio-output {
	}
}
"""


def test_what_others_put_into_our_tables_is_kept_as_text_and_told() -> None:
    have = parse(FOREIGN)
    assert parse(render(have)) == have
    for line in FOREIGN.splitlines():
        assert line.strip() in render(have)
    told = "\n".join(f"{d.kind}: {d.text}" for d in diff(wanted(SIDECAR), have))
    for words in (
        "unexpected: istio-proxy-nat: flags dormant is not part",
        "unexpected: istio-proxy-nat: set seen is not part",
        "unexpected: istio-proxy-nat Other_chain: the chain is not part",
        "changed: istio-proxy-nat prerouting: type nat hook prerouting priority -99; policy drop stands for type nat",
        'changed: istio-proxy-nat prerouting: tcp dport vmap { 80 : drop } comment "mine" stands for meta l4proto tcp',
        "missing: istio-proxy-nat output: the chain does not exist",
        "missing: istio-proxy-nat istio-output: counter jump istio-redirect",
    ):
        assert words in told
    assert all(d.harmful for d in diff(wanted(SIDECAR), have))


def altered(chain: str, change: object) -> RuleSet:
    table = wanted(SIDECAR).table("nat")
    chains = [replace(c, rules=change(c.rules)) if c.name == chain else c for c in table.chains]  # type: ignore[operator]
    return RuleSet((replace(table, chains=tuple(chains)),))


def test_kinds_of_differences() -> None:
    want = wanted(SIDECAR)
    changes = {
        "missing": lambda rules: rules[1:],
        "unexpected": lambda rules: (*rules, Rule("ACCEPT")),
        "reordered": lambda rules: rules[::-1],
        "duplicate": lambda rules: (*rules, rules[-1]),
        "changed": lambda rules: (*rules[:-1], Rule("ACCEPT")),
    }
    for kind, change in changes.items():
        assert [d.kind for d in diff(want, altered("ISTIO_OUTPUT", change))] == [kind]
    assert [d.kind for d in diff(want, RuleSet())] == ["missing"]
    assert [(d.kind, d.text) for d in diff(want, RuleSet((*want.tables, Table("filter"))))] == [
        ("unexpected", "istio-proxy-filter: the table is not part of the plan")
    ]


def test_a_base_chain_without_its_hook_is_told() -> None:
    table = wanted(SIDECAR).table("nat")
    bare = [replace(c, policy="-") if c.name == "OUTPUT" else c for c in table.chains]
    found = diff(wanted(SIDECAR), RuleSet((replace(table, chains=tuple(bare)),)))
    assert [d.kind for d in found] == ["changed"]
    assert "no hook stands for type nat hook output" in found[0].text


def test_priorities_may_have_names() -> None:
    named = render(wanted(FULL))
    for number, name in (("-300", "raw"), ("-150", "mangle"), ("-100", "dstnat")):
        named = named.replace(f"priority {number};", f"priority {name};")
    assert "dstnat" in named
    assert parse(named) == wanted(FULL)


def test_names_of_chains() -> None:
    for name in ("prerouting", "istio-output-dns", "OUTPUT", "istio_output", "mine", "ISTIO-X"):
        assert chain_name(model_name(name)) == name
    assert model_name("istio-output-dns") == "ISTIO_OUTPUT_DNS"
    assert len({model_name(n) for n in ("istio-output", "ISTIO-OUTPUT", "istio_output")}) == 3
    assert set(HOOKS) == {(t, c) for t in ("raw", "mangle", "nat") for c in ("PREROUTING", "OUTPUT")}


@given(st.lists(st.sampled_from([*FOREIGN.splitlines(), "}", "\t}", "\tchain x {", "table inet other {"])))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    with suppress(ValueError):
        have = parse("\n".join(lines))
        assert all(isinstance(c, Chain) for t in have.tables for c in t.chains)
