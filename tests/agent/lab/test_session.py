"""Versions, verdicts and wildcards that both flavours share."""

from agent.lab import session
from agent.lab.session import CDS, EDS, LDS, NDS


def test_version_is_the_content() -> None:
    assert session.resource("a", b"1").version == session.resource("b", b"1").version
    assert session.resource("a", b"1").version != session.resource("a", b"2").version


def test_digest_ignores_order_and_sees_names() -> None:
    one, two = session.resource("a", b"1"), session.resource("b", b"2")
    assert session.digest([one, two]) == session.digest([two, one])
    assert session.digest([one]) != session.digest([session.resource("c", b"1")])


def test_an_empty_first_subscription_is_a_wildcard_only_where_the_protocol_says_so() -> None:
    assert all(session.starts_wild(url, ()) for url in (CDS, LDS, NDS))
    assert not session.starts_wild(EDS, ())
    assert session.starts_wild(EDS, ("*",))
    assert not session.starts_wild(CDS, ("one",))


def test_verdicts() -> None:
    assert session.verdict_of(CDS, "1", None, True).kind == "ack"
    assert session.verdict_of(CDS, "1", "no", True) == session.Verdict("nack", CDS, "1", "no")
    assert session.verdict_of(CDS, "1", None, False).kind == "stale"
