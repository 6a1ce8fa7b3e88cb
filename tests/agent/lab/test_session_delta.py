"""The incremental stream: a client that follows the protocol always ends up with exactly what it subscribed to."""

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from agent.lab.session import CDS, EDS, LDS, NDS, RDS, Action, DeltaRequest, Push, Snapshot, Verdict, resource
from agent.lab.session_delta import DeltaSession

EMPTY: Snapshot = {CDS: {}, EDS: {}, LDS: {}, RDS: {}, NDS: {}}


def world(**types: dict[str, str]) -> Snapshot:
    """`world(CDS={"a": "1"})`: names and contents by type."""
    urls = {"CDS": CDS, "EDS": EDS, "LDS": LDS, "RDS": RDS, "NDS": NDS}
    return EMPTY | {urls[k]: {n: resource(n, v.encode()) for n, v in rows.items()} for k, rows in types.items()}


def session() -> DeltaSession:
    counter = itertools.count(1)
    return DeltaSession(lambda: str(next(counter)))


def pushes(actions: Iterable[Action]) -> list[Push]:
    return [a for a in actions if isinstance(a, Push)]


def one(actions: list[Action]) -> tuple[set[str], set[str]]:
    """(sent names, removed names) of the only push."""
    (push,) = pushes(actions)
    return {r.name for r in push.resources}, set(push.removed)


def test_wildcard_gets_everything_then_only_changes() -> None:
    stream = session()
    assert one(stream.request(DeltaRequest(CDS), world(CDS={"a": "1", "b": "1"}))) == ({"a", "b"}, set())
    assert stream.update(world(CDS={"a": "1", "b": "1"})) == []
    assert one(stream.update(world(CDS={"a": "2", "b": "1"}))) == ({"a"}, set())
    assert one(stream.update(world(CDS={"a": "2", "c": "1"}))) == ({"c"}, {"b"})
    assert stream.update(world(CDS={"a": "2", "c": "1"})) == []


def test_first_wildcard_answer_is_due_even_when_empty() -> None:
    assert one(session().request(DeltaRequest(LDS), EMPTY)) == (set(), set())


def test_named_subscription_ignores_the_rest() -> None:
    stream = session()
    everything = world(EDS={"a": "1", "b": "1"})
    assert one(stream.request(DeltaRequest(EDS, ("a",)), everything)) == ({"a"}, set())
    assert stream.update(world(EDS={"a": "1", "b": "2"})) == []
    assert one(stream.request(DeltaRequest(EDS, ("b",)), everything)) == ({"b"}, set())


def test_a_missing_name_is_reported_once_and_sent_when_it_appears() -> None:
    stream = session()
    assert one(stream.request(DeltaRequest(EDS, ("a",)), EMPTY)) == (set(), {"a"})
    assert stream.update(EMPTY) == []
    assert one(stream.update(world(EDS={"a": "1"}))) == ({"a"}, set())
    assert one(stream.update(EMPTY)) == (set(), {"a"})


def test_subscribing_again_sends_again() -> None:
    stream, everything = session(), world(EDS={"a": "1"})
    stream.request(DeltaRequest(EDS, ("a",)), everything)
    assert one(stream.request(DeltaRequest(EDS, ("a",)), everything)) == ({"a"}, set())


def test_unsubscribing_ends_updates() -> None:
    stream = session()
    stream.request(DeltaRequest(EDS, ("a", "b")), world(EDS={"a": "1", "b": "1"}))
    assert stream.request(DeltaRequest(EDS, (), ("a",)), world(EDS={"a": "1", "b": "1"})) == []
    assert one(stream.update(world(EDS={"a": "2", "b": "2"}))) == ({"b"}, set())


def test_unsubscribing_the_wildcard_keeps_the_names() -> None:
    stream = session()
    stream.request(DeltaRequest(CDS, ("*", "a")), world(CDS={"a": "1", "b": "1"}))
    assert stream.request(DeltaRequest(CDS, (), ("*",)), world(CDS={"a": "1", "b": "1"})) == []
    assert one(stream.update(world(CDS={"a": "2", "b": "2"}))) == ({"a"}, set())


def test_unsubscribing_a_name_under_the_wildcard_sends_it_again() -> None:
    stream, everything = session(), world(CDS={"a": "1"})
    stream.request(DeltaRequest(CDS, ("*", "a")), everything)
    assert one(stream.request(DeltaRequest(CDS, (), ("a",)), everything)) == ({"a"}, set())


def test_a_reconnect_gets_only_what_differs() -> None:
    held = {"a": resource("a", b"1").version, "b": "old", "gone": "1"}
    everything = world(CDS={"a": "1", "b": "2", "c": "1"})
    assert one(session().request(DeltaRequest(CDS, (), (), held), everything)) == ({"b", "c"}, {"gone"})


def test_versions_of_names_that_are_not_subscribed_do_not_count() -> None:
    stream = session()
    request = DeltaRequest(EDS, ("a",), (), {"a": resource("a", b"1").version, "z": "1"})
    assert one(stream.request(request, world(EDS={"a": "1"}))) == (set(), set())


def test_endpoints_follow_a_changed_cluster() -> None:
    stream = session()
    stream.request(DeltaRequest(CDS), world(CDS={"a": "1", "b": "1"}, EDS={"a": "1", "b": "1"}))
    stream.request(DeltaRequest(EDS, ("a", "b")), world(CDS={"a": "1", "b": "1"}, EDS={"a": "1", "b": "1"}))
    clusters, endpoints = pushes(stream.update(world(CDS={"a": "2", "b": "1"}, EDS={"a": "1", "b": "1"})))
    assert (clusters.type_url, endpoints.type_url) == (CDS, EDS)
    assert [r.name for r in endpoints.resources] == ["a"]


def test_endpoints_held_before_a_reconnect_do_not_warm_a_new_cluster() -> None:
    everything = world(CDS={"a": "2"}, EDS={"a": "1"})
    stream = session()
    stream.request(DeltaRequest(CDS, (), (), {"a": "old"}), everything)
    again = DeltaRequest(EDS, ("a",), (), {"a": resource("a", b"1").version})
    assert one(stream.request(again, everything)) == ({"a"}, set())


def test_answers_are_told_apart() -> None:
    stream, everything = session(), world(CDS={"a": "1"})
    (push,) = pushes(stream.request(DeltaRequest(CDS), everything))
    assert stream.request(DeltaRequest(CDS, nonce=push.nonce), everything) == [Verdict("ack", CDS, push.nonce)]
    assert stream.request(DeltaRequest(CDS, nonce="x"), everything) == [Verdict("stale", CDS, "x")]
    (push,) = pushes(stream.update(world(CDS={"a": "2"})))
    rejected = stream.request(DeltaRequest(CDS, nonce=push.nonce, error="bad"), world(CDS={"a": "2"}))
    assert rejected == [Verdict("nack", CDS, push.nonce, "bad")]
    assert stream.update(world(CDS={"a": "2"})) == []  # what was rejected is not sent again until it changes
    assert one(stream.update(world(CDS={"a": "3"}))) == ({"a"}, set())


def test_types_nobody_serves_are_not_answered() -> None:
    assert session().request(DeltaRequest("type.googleapis.com/x"), EMPTY)[0] == Verdict(
        "unserved", "type.googleapis.com/x", ""
    )


NAMES = st.sampled_from("abc")
CONTENT = st.dictionaries(NAMES, st.sampled_from("12"), max_size=3)
STEP = st.one_of(
    st.tuples(st.just("world"), CONTENT),
    st.tuples(st.just("subscribe"), st.frozensets(st.sampled_from("abc*"), min_size=1)),
    st.tuples(st.just("unsubscribe"), st.frozensets(st.sampled_from("abc*"), min_size=1)),
    st.tuples(st.just("reconnect"), st.booleans()),
)


@given(st.booleans(), st.frozensets(NAMES), CONTENT, st.lists(STEP, max_size=12))
def test_the_client_holds_what_it_subscribed_to(
    wild: bool, names: frozenset[str], content: dict[str, str], steps: list
) -> None:
    """A model client that applies every push holds the subscribed part of the world after every step, and no more."""
    client: dict[str, bytes] = {}
    wanted = set(names) | ({"*"} if wild else set())
    current = world(LDS=content)
    stream = session()

    def take(actions: list[Action]) -> None:
        for push in pushes(actions):
            for name in push.removed:
                client.pop(name, None)
            client.update({r.name: r.body for r in push.resources})

    def connect() -> None:
        versions = {n: resource(n, body).version for n, body in client.items()}
        if wanted:
            take(stream.request(DeltaRequest(LDS, tuple(wanted), (), versions), current))

    connect()
    for what, value in steps:
        if what == "world":
            current = world(LDS=value)
            take(stream.update(current))
        elif what == "reconnect":
            if value:
                client.clear()  # a new Envoy instead of the old one
            stream = session()
            connect()
        elif what == "subscribe":
            wanted |= value
            take(stream.request(DeltaRequest(LDS, tuple(value)), current))
        elif wanted:
            gone = value & wanted
            wanted -= gone
            if "*" not in wanted:
                for name in list(client):
                    if name not in wanted:
                        del client[name]
            take(stream.request(DeltaRequest(LDS, (), tuple(gone)), current))
        expected = {n: r.body for n, r in current[LDS].items() if "*" in wanted or n in wanted}
        assert client == expected
