"""pflag's rules, case by case, and the promise that nothing but our two exceptions comes out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.flags import PROXY, Flag, FlagSet, HelpWanted, flag_int, go_bool, go_int
from agent.errors import ConfigError

STRICT = FlagSet(
    "tool do",
    (Flag("name", "n", short="n"), Flag("count", 1, short="c"), Flag("loud", False, short="l"), Flag("tag", ("a",))),
)


@pytest.mark.parametrize(
    ("argv", "values", "words"),
    [
        ([], {"name": "n", "count": 1, "loud": False, "tag": ("a",)}, ()),
        (["--name=x", "w"], {"name": "x"}, ("w",)),
        (["--name", "x", "w"], {"name": "x"}, ("w",)),
        (["--name", ""], {"name": ""}, ()),
        (["--name="], {"name": ""}, ()),
        (["--name", "--loud"], {"name": "--loud", "loud": False}, ()),
        (["-nx"], {"name": "x"}, ()),
        (["-n=x"], {"name": "x"}, ()),
        (["-n", "x"], {"name": "x"}, ()),
        (["-n="], {"name": "="}, ()),
        (["-lnx"], {"loud": True, "name": "x"}, ()),
        (["-lc", "3"], {"loud": True, "count": 3}, ()),
        (["--loud", "w"], {"loud": True}, ("w",)),
        (["--loud=f"], {"loud": False}, ()),
        (["a", "--loud", "b", "--", "--name", "-c"], {"loud": True, "name": "n"}, ("a", "b", "--name", "-c")),
        (["-", ""], {}, ("-", "")),
        (["--tag=x", "--tag", "y"], {"tag": ("x", "y")}, ()),
        (["--name=a=b"], {"name": "a=b"}, ()),
    ],
)
def test_values_and_words(argv: list[str], values: dict[str, Any], words: tuple[str, ...]) -> None:
    parsed = STRICT.parse(argv)
    assert parsed.words == words
    assert {k: parsed[k] for k in values} == values


def test_given_names_what_was_written() -> None:
    assert STRICT.parse(["--loud=false", "-n", "n"]).given == {"loud", "name"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nosuch"], "unknown flag: --nosuch"),
        (["-x"], "unknown flag: -x"),
        (["--name"], "flag needs an argument: --name"),
        (["-n"], "flag needs an argument: -n"),
        (["--count=many"], "invalid argument 'many' for flag --count"),
        (["--loud=maybe"], "invalid argument 'maybe' for flag --loud"),
        (["---name"], "bad flag syntax"),
        (["--=x"], "bad flag syntax"),
        (["--nam=x"], "unknown flag: --nam"),
    ],
)
def test_refusals_are_one_sentence(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        STRICT.parse(argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--nosuch", "router"], ()),
        (["-x", "router"], ()),
        (["--nosuch=1", "router"], ("router",)),
        (["-x=1", "router"], ("router",)),
        (["--nosuch", "--domain", "a.b", "router"], ("router",)),
        (["--", "router"], ("router",)),
        (["--log_as_json", "router"], ("router",)),
        (["router", "--nosuch"], ("router",)),
        (["router", "-xyz", "w"], ("router",)),
    ],
)
def test_proxy_ignores_unknown_flags_and_the_word_after_them(argv: list[str], words: tuple[str, ...]) -> None:
    assert PROXY.parse(argv).words == words


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["w", "--help"], ["-lh"]])
def test_help_names_every_flag(argv: list[str]) -> None:
    with pytest.raises(HelpWanted) as caught:
        STRICT.parse(argv)
    assert all(f"--{flag.name}" in str(caught.value) for flag in STRICT.flags)


@given(st.lists(st.one_of(st.text(max_size=6), st.sampled_from(["--", "-n", "--name", "-l", "--count", "-", "-h"]))))
def test_any_command_line_gives_values_or_a_sentence(argv: list[str]) -> None:
    for spec in (STRICT, PROXY):
        try:
            spec.parse(argv)
        except (ConfigError, HelpWanted):
            continue


@given(st.text(max_size=8))
def test_go_numbers_and_booleans(text: str) -> None:
    for read in (go_bool, go_int):
        try:
            read(text)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("-3", -3), ("+4", 4), ("0x1F", 31), ("0b101", 5), ("0o17", 15), ("017", 15), ("1_000", 1000), ("0", 0)],
)
def test_numbers_of_flags(text: str, number: int) -> None:
    assert flag_int(text) == STRICT.parse([f"--count={text}"])["count"] == number


@pytest.mark.parametrize("text", ["", "x", " 1", "1.0", "09", "0x", "1__0", "9223372036854775808", "٣"])
def test_what_is_no_number_of_a_flag(text: str) -> None:
    with pytest.raises(ConfigError, match="invalid argument"):
        STRICT.parse([f"--count={text}"])
