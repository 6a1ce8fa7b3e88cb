import pytest

from init.diff import diff, owned
from init.plan import plan
from init.rules import Rule, RuleSet, parse, render
from init.settings import InitConfig, Ranges

SIDECAR = InitConfig(inbound_ports=("*",), inbound_exclude=("15020",), include=Ranges(all=True))
WANT = plan(SIDECAR).v4
TEXT = render(WANT)


def edited(old: str, new: str) -> RuleSet:
    assert old in TEXT
    return parse(TEXT.replace(old, new))


LINE = "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n"
FIRST = "-A ISTIO_OUTPUT -s"
CHAIN = ":ISTIO_OUTPUT "
JUMP = "-A OUTPUT -j ISTIO_OUTPUT\n"


@pytest.mark.parametrize(
    ("have", "kinds"),
    [
        (WANT, []),
        (edited(JUMP, ""), ["missing"]),
        (edited(LINE, ""), ["missing"]),
        (edited(JUMP, JUMP * 2), ["duplicate"]),
        (edited(LINE, LINE * 2), ["duplicate"]),
        (edited("--to-ports 15001", "--to-ports 1"), ["changed"]),
        (edited(LINE, LINE + "-A ISTIO_OUTPUT -p udp -j RETURN\n"), ["unexpected"]),
        (parse(TEXT.replace(LINE, "").replace(FIRST, LINE + FIRST)), ["reordered"]),
        (edited(":ISTIO_REDIRECT", ":ISTIO_OLD - [0:0]\n:ISTIO_REDIRECT"), ["unexpected"]),
        (edited(JUMP, "-A OUTPUT -p tcp -j ACCEPT\n" + JUMP), ["foreign-ahead"]),
        (edited(JUMP, "-A OUTPUT -p udp -j ACCEPT\n" + JUMP), []),
        (edited(JUMP, "-A OUTPUT -p tcp -j LOG\n" + JUMP), []),
        (edited(JUMP, JUMP + "-A OUTPUT -p tcp -j ACCEPT\n"), []),
        (parse(TEXT.replace(JUMP, "-A OUTPUT -j MINE\n" + JUMP).replace(CHAIN, ":MINE - [0:0]\n" + CHAIN)), []),
    ],
)
def test_kinds(have: RuleSet, kinds: list[str]) -> None:
    found = diff(WANT, have)
    assert [d.kind for d in found] == kinds
    assert all("\n" not in d.text for d in found)


def test_nothing_in_place() -> None:
    assert {d.kind for d in diff(WANT, RuleSet())} == {"missing"}


def test_an_empty_plan_wants_nothing_of_ours() -> None:
    assert {d.kind for d in diff(RuleSet(), WANT)} == {"unexpected"}
    assert diff(RuleSet(), parse("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j ACCEPT\nCOMMIT\n")) == []


def test_a_foreign_chain_that_ends_in_a_decision_is_reported() -> None:
    text = TEXT.replace(JUMP, "-A OUTPUT -j MINE\n" + JUMP).replace(CHAIN, ":MINE - [0:0]\n" + CHAIN)
    text = text.replace(LINE, LINE + "-A MINE -p tcp -j DNAT --to-destination 1.1.1.1\n")
    found = diff(WANT, parse(text))
    assert [(d.kind, d.harmful) for d in found] == [("foreign-ahead", False)]
    assert "-j MINE" in found[0].text


def test_rules_of_an_earlier_plan_are_recognised_by_their_shape() -> None:
    nics = {"exclude_interfaces": ("net1",), "virtual_interfaces": ("tap0",)}
    old = plan(InitConfig(inbound_ports=("*",), include=Ranges(all=True), tproxy=True, **nics))
    assert owned(old.v4, RuleSet()) == RuleSet(
        tuple(type(t)(t.name, tuple(c for c in t.chains if c.rules)) for t in old.v4.tables)
    )


def test_the_same_shapes_beside_no_chain_of_ours_are_foreign() -> None:
    text = "*mangle\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -o lo -p tcp -m mark --mark 0x1 -j RETURN\nCOMMIT\n"
    assert owned(parse(text), RuleSet()) == RuleSet()
    known = parse(text)
    assert owned(parse(text), known).count() == 1


def test_an_interface_excluded_before_is_a_leftover() -> None:
    rules = "-A PREROUTING -i net1 -j RETURN\n"
    text = TEXT.replace("-A PREROUTING", rules + "-A PREROUTING", 1)
    text = text.replace(JUMP, "-A OUTPUT -o net1 -j RETURN\n" + JUMP)
    found = diff(WANT, parse(text))
    assert [(d.kind, d.harmful) for d in found] == [("leftover", False)] * 2
    alone = parse(TEXT.replace("-A PREROUTING", rules + "-A PREROUTING", 1))
    assert [d.kind for d in diff(WANT, alone)] == ["foreign-ahead"]
    assert owned(alone, WANT).table("nat").rules("PREROUTING") == (Rule("ISTIO_INBOUND", protocol="tcp"),)
