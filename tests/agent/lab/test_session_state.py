"""The state-of-the-world stream: nonces decide, every push is complete."""

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from agent.lab.session import CDS, EDS, LDS, NDS, RDS, Action, Push, Snapshot, StateRequest, Verdict, resource
from agent.lab.session_state import StateSession

EMPTY: Snapshot = {CDS: {}, EDS: {}, LDS: {}, RDS: {}, NDS: {}}


def world(**types: dict[str, str]) -> Snapshot:
    urls = {"CDS": CDS, "EDS": EDS, "LDS": LDS, "RDS": RDS, "NDS": NDS}
    return EMPTY | {urls[k]: {n: resource(n, v.encode()) for n, v in rows.items()} for k, rows in types.items()}


def session() -> StateSession:
    counter = itertools.count(1)
    return StateSession(lambda: str(next(counter)))


def pushes(actions: Iterable[Action]) -> list[Push]:
    return [a for a in actions if isinstance(a, Push)]


def only(actions: list[Action]) -> Push:
    (push,) = pushes(actions)
    return push


def names(push: Push) -> list[str]:
    return [r.name for r in push.resources]


def test_wildcard_is_complete_at_every_change() -> None:
    stream, before = session(), world(CDS={"a": "1", "b": "1"})
    first = only(stream.request(StateRequest(CDS), before))
    assert names(first) == ["a", "b"]
    assert stream.update(before) == []
    second = only(stream.update(world(CDS={"a": "2", "b": "1"})))
    assert names(second) == ["a", "b"]
    assert second.version != first.version
    assert names(only(stream.update(EMPTY))) == []


def test_ack_nack_and_stale() -> None:
    stream, everything = session(), world(CDS={"a": "1"})
    push = only(stream.request(StateRequest(CDS), everything))
    ack = StateRequest(CDS, (), push.version, push.nonce)
    assert stream.request(ack, everything) == [Verdict("ack", CDS, push.nonce)]
    assert stream.request(StateRequest(CDS, (), "", "other"), everything) == [Verdict("stale", CDS, "other")]
    nack = StateRequest(CDS, (), "", push.nonce, "bad")
    assert stream.request(nack, everything) == [Verdict("nack", CDS, push.nonce, "bad")]
    assert stream.update(everything) == []


def test_added_names_are_answered_and_dropped_names_are_not() -> None:
    stream, everything = session(), world(RDS={"a": "1", "b": "1"})
    push = only(stream.request(StateRequest(RDS, ("a",)), everything))
    more = only(stream.request(StateRequest(RDS, ("a", "b"), push.version, push.nonce), everything))
    assert names(more) == ["a", "b"]
    assert pushes(stream.request(StateRequest(RDS, ("b",), more.version, more.nonce), everything)) == []
    assert stream.update(world(RDS={"a": "2", "b": "1"})) == []
    assert names(only(stream.update(world(RDS={"a": "2", "b": "2"})))) == ["b"]


def test_no_names_and_no_wildcard_type_is_no_subscription() -> None:
    stream = session()
    assert stream.request(StateRequest(EDS), world(EDS={"a": "1"})) == []
    assert stream.update(world(EDS={"a": "2"})) == []


def test_a_reconnect_is_answered_in_full_whatever_version_it_holds() -> None:
    everything = world(CDS={"a": "1"})
    version = only(session().request(StateRequest(CDS), everything)).version
    assert names(only(session().request(StateRequest(CDS, (), version), everything))) == ["a"]


def test_endpoints_follow_changed_clusters() -> None:
    stream, before = session(), world(CDS={"a": "1"}, EDS={"a": "1"})
    stream.request(StateRequest(CDS), before)
    stream.request(StateRequest(EDS, ("a",)), before)
    assert [p.type_url for p in pushes(stream.update(world(CDS={"a": "2"}, EDS={"a": "1"})))] == [CDS, EDS]


def test_what_was_named_before_it_exists_comes_later() -> None:
    stream = session()
    assert stream.request(StateRequest(RDS, ("a",)), EMPTY) == []
    assert names(only(stream.update(world(RDS={"a": "1"})))) == ["a"]


def test_types_nobody_serves_are_not_answered() -> None:
    assert session().request(StateRequest("x"), EMPTY) == [Verdict("unserved", "x", "")]


CONTENT = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"), max_size=3)


@given(
    st.booleans(),
    st.frozensets(st.sampled_from("abc"), min_size=1),
    CONTENT,
    st.lists(st.one_of(CONTENT, st.frozensets(st.sampled_from("abc"), min_size=1)), max_size=12),
)
def test_the_client_holds_what_it_subscribed_to(
    wild: bool, first: frozenset[str], content: dict[str, str], steps: list
) -> None:
    """A model client that acknowledges every push holds the current content of every subscribed name that exists."""
    stream, current, wanted = session(), world(RDS=content, LDS=content), first
    url = LDS if wild else RDS
    client: dict[str, bytes] = {}
    nonce = version = ""

    def take(actions: list[Action]) -> None:
        nonlocal nonce, version
        for push in pushes(actions):
            if wild:
                client.clear()
            client.update({r.name: r.body for r in push.resources})
            nonce, version = push.nonce, push.version

    def request() -> None:
        take(stream.request(StateRequest(url, () if wild else tuple(sorted(wanted)), version, nonce), current))

    request()
    for step in steps:
        if isinstance(step, dict):
            current = world(RDS=step, LDS=step)
            take(stream.update(current))
            request()  # acknowledge
        elif not wild:
            wanted = step
            request()
            request()
        for name, row in current[url].items():
            if wild or name in wanted:
                assert client.get(name) == row.body
        if wild:
            assert set(client) == set(current[url])
