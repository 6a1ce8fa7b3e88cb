from hypothesis import given

from init.change import merge, removal, rollback, transition
from init.diff import diff, is_own_chain, owned
from init.plan import plan
from init.rules import RuleSet, canonical, parse
from init.settings import InitConfig, Ranges
from tests.fakes.iptables import CONFIGS, FOREIGN, load

SIDECAR = plan(InitConfig(inbound_ports=("*",), include=Ranges(all=True))).v4
FULL = InitConfig(inbound_ports=("*",), include=Ranges(all=True), tproxy=True, dns=True, dns_all=True)


def used(rules: RuleSet) -> RuleSet:
    """Without built-in chains that hold nothing."""
    tables = [type(t)(t.name, tuple(c for c in t.chains if c.rules or c.policy == "-")) for t in rules.tables]
    return canonical(RuleSet(tuple(t for t in tables if t.chains)))


@given(CONFIGS, FOREIGN)
def test_applying_gives_the_plan_beside_what_was_there(config: InitConfig, foreign: RuleSet) -> None:
    want = plan(config).v4
    after = load(foreign, transition(foreign, want))
    assert used(after) == used(merge(foreign, want))
    assert not [d for d in diff(want, after) if d.harmful]
    assert transition(after, want) == ""


@given(CONFIGS, CONFIGS, FOREIGN)
def test_the_last_plan_wins_whatever_was_before(a: InitConfig, b: InitConfig, foreign: RuleSet) -> None:
    first, second = plan(a).v4, plan(b).v4
    state = load(foreign, transition(foreign, first))
    state = load(state, transition(state, second))
    direct = load(foreign, transition(foreign, second))
    assert used(owned(state, second)) == used(owned(direct, second))
    kept = [e for e in state.each() if e in set(foreign.each())]
    assert sorted(kept, key=str) == sorted((e for e in direct.each() if e in set(foreign.each())), key=str)


@given(CONFIGS, FOREIGN)
def test_removing_leaves_what_was_there_before(config: InitConfig, foreign: RuleSet) -> None:
    want = plan(config).v4
    after = load(foreign, transition(foreign, want))
    assert used(load(after, removal(after, want))) == used(foreign)


@given(CONFIGS, CONFIGS, FOREIGN)
def test_rolling_back_restores_every_rule_to_its_place(a: InitConfig, b: InitConfig, foreign: RuleSet) -> None:
    before = load(foreign, transition(foreign, plan(a).v4))
    half = "".join(block + "COMMIT\n" for block in transition(before, plan(b).v4).split("COMMIT\n")[:1] if block)
    now = load(before, half)
    assert used(load(now, rollback(now, before, plan(b).v4))) == used(before)


def blocks(text: str) -> list[str]:
    return [line[1:] for line in text.splitlines() if line.startswith("*")]


def test_nat_commits_last_when_rules_come_and_first_when_they_go() -> None:
    want = plan(FULL).v4
    assert blocks(transition(RuleSet(), want)) == ["raw", "mangle", "nat"]
    assert blocks(transition(want, RuleSet())) == ["nat", "mangle", "raw"]
    assert blocks(transition(want, SIDECAR)) == ["nat", "mangle", "raw"]


def test_a_jump_keeps_its_place_among_foreign_rules() -> None:
    have = parse(
        "*nat\n:OUTPUT ACCEPT [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n-A OUTPUT -j ISTIO_OUTPUT\n"
        "-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n"
    )
    text = transition(have, SIDECAR)
    after = load(have, text)
    assert [r.text() for r in after.table("nat").rules("OUTPUT")] == ["-j ISTIO_OUTPUT", "-p tcp -j ACCEPT"]
    assert "-I OUTPUT 1 -j ISTIO_OUTPUT" in text


def test_a_chain_that_is_right_is_not_written() -> None:
    rules = [r for r in transition(RuleSet(), SIDECAR).splitlines() if "15001" not in r]
    damaged = load(RuleSet(), "\n".join(rules))
    text = transition(damaged, SIDECAR)
    assert [line for line in text.splitlines() if line.startswith(":")] == [":ISTIO_REDIRECT - [0:0]"]


def test_stale_chains_and_jumps_into_them_go() -> None:
    have = parse(
        "*filter\n:INPUT ACCEPT [0:0]\n:ISTIO_OLD - [0:0]\n:MINE - [0:0]\n-A INPUT -j ISTIO_OLD\n"
        "-A MINE -j ISTIO_OLD\n-A MINE -j DROP\n-A ISTIO_OLD -j DROP\nCOMMIT\n"
    )
    after = load(have, transition(have, RuleSet()))
    assert not any(is_own_chain(c.name) for t in after.tables for c in t.chains)
    assert [r.text() for r in after.table("filter").rules("MINE")] == ["-j DROP"]
