"""Tokens name an identity and prove it; certificates of the trust domain do too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lab import tokens
from agent.lab.tokens import Identity

ISSUED = ["lab.demo.a.s1", "lab.demo.b.c.s2"]


def bearer(text: str) -> list[tuple[str, str | bytes]]:
    return [("Authorization", f"Bearer {text}")]


@given(
    st.from_regex(r"[a-z0-9-]{1,9}", fullmatch=True),
    st.from_regex(r"[a-z0-9.-]{1,9}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
)
def test_round_trip(namespace: str, account: str, secret: str) -> None:
    identity = Identity(namespace, account)
    assert tokens.parse(tokens.compose(identity, secret)) == identity


@pytest.mark.parametrize("text", ["", "lab", "lab.a", "lab.a.b", "lab..b.c", "lab.a..c", "lab.a.b.", "jwt.a.b.c"])
def test_malformed(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        tokens.parse(text)


def test_issued_tokens_are_accepted() -> None:
    assert tokens.authenticate(bearer("lab.demo.b.c.s2"), ISSUED) == Identity("demo", "b.c")
    assert tokens.authenticate([("authorization", b"bearer  lab.demo.a.s1 ")], ISSUED) == Identity("demo", "a")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ([], "no authorization header"),
        ([("authorization", "Basic x")], "not a bearer token"),
        (bearer("lab.demo.a.s2"), "not issued"),
        (bearer("lab.other.a.s1"), "not issued"),
        (bearer("ü"), "not issued"),
        (bearer(""), "not issued"),
        ([("authorization", b"Bearer \xff")], "not issued"),
    ],
)
def test_strangers(metadata: list[tuple[str, str | bytes]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tokens.authenticate(metadata, ISSUED)


def test_spiffe() -> None:
    identity = Identity("demo", "a")
    assert identity.spiffe("td") == "spiffe://td/ns/demo/sa/a"
    assert tokens.from_spiffe("spiffe://td/ns/demo/sa/a", "td") == identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://other/ns/demo/sa/a",
        "spiffe://td/ns/demo",
        "spiffe://td/ns//sa/a",
        "spiffe://td/ns/x/sa/a/b",
        "https://td/ns/x/sa/a",
    ],
)
def test_foreign_identities(uri: str) -> None:
    with pytest.raises(ValueError, match="no workload identity"):
        tokens.from_spiffe(uri, "td")
