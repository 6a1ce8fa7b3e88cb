"""What remote ends wrote, before people see it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.text import HIDDEN, one_line, scrub


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü", "plain ü"),
        ("a\nb\x1b[31m\t", r"a\nb\x1b[31m\t"),
        ("\u2028\x9b", r"\u2028\x9b"),
        ("\udcff", r"\udcff"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(st.text())
def test_a_line_is_always_printable(text: str) -> None:
    assert one_line(text).isprintable()


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("no secret here", (), "no secret here"),
        ("bad token token-1 of you", ("token-1",), f"bad token {HIDDEN} of you"),
        ("both token-12 and token-1", ("token-1", "token-12"), f"both {HIDDEN} and {HIDDEN}"),
        ("a short one stays: a", ("a", ""), "a short one stays: a"),
        ("x -----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY----- y", (), f"x {HIDDEN} y"),
        ("x -----BEGIN PRIVATE KEY-----\nMHc", (), f"x {HIDDEN}"),
        ("-----BEGIN CERTIFICATE-----", (), "-----BEGIN CERTIFICATE-----"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln!", (), f"Bearer {HIDDEN}!"),
    ],
)
def test_scrub(text: str, secrets: tuple[str, ...], shown: str) -> None:
    assert scrub(text, *secrets) == shown
