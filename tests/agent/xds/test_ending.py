import pytest

from agent.xds.ending import AGENT, ENVOY, Ending, Kind


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("OK", "", Kind.GRACEFUL),
        ("CANCELLED", "", Kind.EXPECTED),
        ("DEADLINE_EXCEEDED", "x", Kind.EXPECTED),
        ("UNAVAILABLE", "error reading from server: EOF", Kind.EXPECTED),
        ("UNAVAILABLE", "transport is closing", Kind.EXPECTED),
        ("UNAVAILABLE", "Socket closed", Kind.EXPECTED),
        ("UNAVAILABLE", "the connection was closed", Kind.EXPECTED),
        ("UNAVAILABLE", "GOAWAY received with error code: NO_ERROR: max_age", Kind.EXPECTED),
        ("INTERNAL", "Received RST_STREAM with error code 0", Kind.EXPECTED),
        ("UNAVAILABLE", "overloaded", Kind.ERROR),
        ("UNAUTHENTICATED", "authentication failure", Kind.ERROR),
        ("INTERNAL", "transport is closing", Kind.ERROR),
    ],
)
def test_kind(code, message, kind):
    assert Ending(code, message).kind is kind


def test_what_the_agent_itself_found_is_an_error():
    assert Ending("UNAVAILABLE", "10.0.0.1:15012: Socket closed", by=AGENT).kind is Kind.ERROR
    assert Ending(by=AGENT).kind is Kind.GRACEFUL


def test_unreached():
    assert Ending("UNAVAILABLE", "a sentence", by=AGENT).unreached
    assert not Ending("UNAVAILABLE", "Socket closed").unreached
    assert not Ending("INTERNAL", "x", by=AGENT).unreached


def test_one_sentence():
    assert str(Ending()) == "the control plane ended the discovery stream"
    assert str(Ending("CANCELLED", by=ENVOY)) == "Envoy ended the discovery stream"
    assert str(Ending("INTERNAL", "boom")) == "the control plane ended the discovery stream with INTERNAL: boom"
    assert str(Ending("INTERNAL")) == "the control plane ended the discovery stream with INTERNAL"
    assert str(Ending("UNAVAILABLE", "no route", by=AGENT)) == "no route"
