import pytest
from hypothesis import given
from hypothesis import strategies as st

from init.rules import Chain, Rule, RuleSet, Table, canonical, make, parse, render, split

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789./:_,", min_size=1, max_size=8)
NAME = st.from_regex(r"[A-Z][A-Z_]{0,9}", fullmatch=True)
PLACE = st.one_of(st.just(""), WORD, WORD.map("! ".__add__))
MATCH = st.lists(WORD, min_size=1, max_size=4).map(tuple)
RULE = st.builds(
    Rule,
    target=st.one_of(st.just(""), NAME),
    source=PLACE,
    destination=PLACE,
    inside=PLACE,
    outside=PLACE,
    protocol=PLACE,
    matches=st.lists(MATCH, max_size=3).map(tuple),
)
CHAINS = st.dictionaries(
    st.tuples(st.sampled_from(["nat", "raw", "mangle", "filter", "odd"]), NAME),
    st.tuples(st.sampled_from(["-", "ACCEPT", "DROP"]), st.lists(RULE, max_size=4)),
    max_size=6,
)


@given(CHAINS)
def test_what_is_rendered_is_read_back(chains: dict[tuple[str, str], tuple[str, list[Rule]]]) -> None:
    rules = make(chains)
    assert parse(render(rules)) == rules


@given(st.text('*:-AN[]0 \nCOMITabc"\\#!j', max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        rules = parse(text)
    except ValueError:
        return
    assert parse(render(rules)) == rules


@pytest.mark.parametrize(
    "line",
    [
        "-s 127.0.0.6/32 -o lo -j RETURN",
        "! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-p tcp -m multiport ! --dports 53,15008 -m owner ! --gid-owner 5 -g ELSEWHERE",
        '-m comment --comment "a \\"b\\" -j c" -j ACCEPT',
        "-m comment --comment -j -j ACCEPT",
        "! -i eth0 ! -p tcp -f -j DROP",
        "-p tcp",
        "-j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x539/0xffffffff",
    ],
)
def test_lines_as_the_kernel_prints_them(line: str) -> None:
    text = f"*nat\n:X - [0:0]\n-A X {line}\nCOMMIT\n"
    assert render(parse(text)) == text


def test_counters_comments_and_order_do_not_matter() -> None:
    text = (
        "# Generated\n*nat\n:OUTPUT ACCEPT [12:720]\n:ZED - [0:0]\n:ABLE - [0:0]\n:PREROUTING DROP [0:0]\n"
        "[5:300] -A OUTPUT -j ABLE\nCOMMIT\n# Completed\n*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    )
    rules = parse(text)
    assert [t.name for t in rules.tables] == ["raw", "nat"]
    assert [c.name for c in rules.table("nat").chains] == ["PREROUTING", "OUTPUT", "ABLE", "ZED"]
    assert rules.table("nat").rules("OUTPUT") == (Rule("ABLE"),)
    assert rules.count() == 2  # the rule, and the policy DROP


@pytest.mark.parametrize(
    "text",
    ["-A X -j Y\n", "*nat\n", "*nat\n-A X -j Y\nCOMMIT\n", "*nat\n:X\nCOMMIT\n", "banana", "*nat\n*raw\nCOMMIT\n"],
)
def test_bad_text_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d|ends inside"):
        parse(text)


def test_a_place_at_the_head_is_not_part_of_a_rule() -> None:
    assert Rule("RETURN", inside="tap0", head=True) == Rule("RETURN", inside="tap0")


def test_missing_tables_and_chains_are_empty() -> None:
    assert RuleSet().table("nat") == Table("nat")
    assert Table("nat", (Chain("X"),)).rules("Y") == ()
    assert canonical(RuleSet()) == RuleSet()
    assert split('a "b c"  d') == ["a", '"b c"', "d"]
