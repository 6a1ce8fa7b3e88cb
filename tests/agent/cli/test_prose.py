import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import prose


@pytest.mark.parametrize(
    ("name", "shown"),
    [("", "(empty)"), ("O=", "(empty)"), ("O=,CN=x", "CN=x"), ("CN=a=", "CN=a="), (r"O=A\, B,CN=", r"O=A\, B")],
)
def test_empty_parts_of_a_name(name: str, shown: str) -> None:
    assert prose.distinguished(name) == shown


@given(*[st.floats(-1e9, 1e9)] * 4)
def test_bars_have_one_length(begin: float, end: float, now: float, renewal: float) -> None:
    assert len(prose.bar(begin, end, now, renewal)) == prose.BAR + 2


@pytest.mark.parametrize(
    ("begin", "end", "now", "renewal", "shown"),
    [
        (0, 32, 8, None, "#" * 8 + "-" * 24),
        (0, 32, 8, 16, "#" * 8 + "-" * 8 + "|" + "-" * 15),
        (0, 32, 20, 16, "#" * 16 + "|" + "#" * 3 + "-" * 12),
        (0, 32, 99, 32, "#" * 31 + "|"),
        (0, 32, -9, 40, "-" * 32),
        (5, 5, 5, None, "#" * 32),
    ],
)
def test_bar(begin: float, end: float, now: float, renewal: float | None, shown: str) -> None:
    assert prose.bar(begin, end, now, renewal) == f"[{shown}]"


@pytest.mark.parametrize(
    ("at", "moment"), [(130.0, "in 30s (1970-01-01T00:02:10Z)"), (40.0, "1m0s ago (1970-01-01T00:00:40Z)")]
)
def test_moments(at: float, moment: str) -> None:
    assert prose.moment(at, 100.0) == moment


def test_a_date_out_of_range_is_told_as_it_is() -> None:
    assert prose.stamp(1e20) == "second 100000000000000000000"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("  name   a b c", 0, ["  name   a b c"]),
        ("  name   aaa bbb ccc", 14, ["  name   aaa", "         bbb", "         ccc"]),
        ("  name   aaaaaaaaaa b", 14, ["  name   aaaaaaaaaa", "         b"]),
    ],
)
def test_lines_are_folded_below_what_they_say(text: str, width: int, lines: list[str]) -> None:
    assert prose.folded(text, width, 9) == lines
