import pytest

from agent.protos import xds_pb2
from agent.xds.cache import CLUSTER, ENDPOINTS, SECRET, Cache
from agent.xds.slices import Asked
from agent.xds.tracker import Tracker
from agent.xds.wire import Flavour, Head

both = pytest.mark.parametrize("flavour", Flavour)


class Stream:
    """A tracker and the cache that it fills."""

    def __init__(self, flavour, cache=None, limit=10_000):
        self.flavour, self.cache = flavour, cache or Cache(limit)
        self.tracker = Tracker(self.cache, flavour, limit)

    def ask(self, type_url, names=(), nonce="", refused=False, gone=(), held=()):
        return self.tracker.request(Asked(type_url, tuple(names), tuple(gone), frozenset(held), "", nonce, refused))

    def push(self, type_url, names, nonce, removed=()):
        if self.flavour is Flavour.DELTA:
            message = xds_pb2.DeltaResponse(type_url=type_url, nonce=nonce, removed_resources=removed)
            for name in names:
                message.resources.add(name=name)
        else:
            message = xds_pb2.Response(type_url=type_url, nonce=nonce)
            for name in names:
                message.resources.add(value=xds_pb2.Node(id=name).SerializeToString())
        self.tracker.response(Head(type_url, nonce), message.SerializeToString())

    def kept(self, type_url):
        kept = self.cache.types().get(type_url)
        return "".join(sorted(kept.entries)) if kept else None


@both
def test_only_what_is_acknowledged_counts(flavour):
    stream = Stream(flavour)
    stream.ask(CLUSTER)
    stream.push(CLUSTER, "ab", "1")
    assert stream.kept(CLUSTER) is None
    stream.ask(CLUSTER, nonce="other")
    assert stream.kept(CLUSTER) is None
    stream.ask(CLUSTER, nonce="1", refused=True)
    stream.ask(CLUSTER, nonce="1")
    assert stream.kept(CLUSTER) is None
    stream.push(CLUSTER, "ab", "2")
    assert stream.ask(CLUSTER, nonce="2") > 10
    assert stream.ask(CLUSTER, nonce="2") == 0
    assert stream.kept(CLUSTER) == "ab"


def test_the_answer_to_a_state_is_the_answer_to_those_before():
    stream = Stream(Flavour.SOTW)
    stream.ask(CLUSTER)
    stream.push(CLUSTER, "a", "1")
    stream.push(CLUSTER, "b", "2")
    stream.ask(CLUSTER, nonce="2")
    stream.ask(CLUSTER, nonce="1")
    assert stream.kept(CLUSTER) == "b"


def test_deltas_are_answered_one_by_one():
    stream = Stream(Flavour.DELTA)
    stream.ask(CLUSTER)
    stream.push(CLUSTER, "a", "1")
    stream.push(CLUSTER, "b", "2", removed="a")
    stream.ask(CLUSTER, nonce="1")
    assert stream.kept(CLUSTER) == "a"
    stream.ask(CLUSTER, nonce="2")
    assert stream.kept(CLUSTER) == "b"


@both
def test_names_that_are_not_asked_for_any_more_go(flavour):
    stream = Stream(flavour)
    stream.ask(ENDPOINTS, "abc")
    stream.push(ENDPOINTS, "abc", "1")
    if flavour is Flavour.DELTA:
        stream.ask(ENDPOINTS, nonce="1")
        stream.ask(ENDPOINTS, "b", gone="bc")  # b is asked for anew
    else:
        stream.ask(ENDPOINTS, "abc", nonce="1")
        stream.ask(ENDPOINTS, "ab", nonce="1")
    assert stream.kept(ENDPOINTS) == "ab"


@both
def test_a_new_envoy_that_asks_for_less_is_followed_in_time(flavour):
    stream = Stream(flavour)
    stream.ask(ENDPOINTS, "abc")
    stream.push(ENDPOINTS, "abc", "1")
    stream.ask(ENDPOINTS, "abc" if flavour is Flavour.SOTW else (), nonce="1")
    later = Stream(flavour, stream.cache)
    later.ask(CLUSTER)
    later.ask(ENDPOINTS, "a")
    assert later.kept(ENDPOINTS) == "abc"
    later.tracker.prune()
    assert later.kept(ENDPOINTS) == "a"
    last = Stream(flavour, stream.cache)
    last.ask(CLUSTER)
    last.tracker.prune()
    assert last.kept(ENDPOINTS) == ""


@both
def test_secrets_are_never_kept(flavour):
    stream = Stream(flavour)
    stream.ask(SECRET, "a")
    stream.push(SECRET, "a", "1")
    stream.ask(SECRET, "a", nonce="1")
    assert stream.cache.types() == {}


@both
def test_an_envoy_that_answers_nothing_costs_no_more_than_the_limit(flavour):
    stream = Stream(flavour, limit=1000)
    stream.ask(CLUSTER)
    for n in range(100):
        stream.push(CLUSTER, ["x" * 100], f"{n}")
    assert "unanswered" in stream.cache.off
    assert stream.kept(CLUSTER) is None


@both
def test_one_nonce_for_everything_costs_one_response(flavour):
    stream = Stream(flavour, limit=1000)
    stream.ask(CLUSTER)
    for _ in range(100):
        stream.push(CLUSTER, ["x" * 100], "n")
    assert not stream.cache.off


@both
def test_responses_nobody_asked_for_and_those_without_a_nonce(flavour):
    stream = Stream(flavour)
    stream.push(CLUSTER, "a", "1")
    stream.ask(CLUSTER, nonce="1")
    stream.push(CLUSTER, "a", "")
    stream.ask(CLUSTER)
    assert stream.kept(CLUSTER) is None


@both
def test_a_response_that_cannot_be_taken_apart_is_not_kept(flavour):
    stream = Stream(flavour)
    stream.ask(CLUSTER)
    stream.tracker.response(Head(CLUSTER, "1"), b"\x12\x05")
    stream.ask(CLUSTER, nonce="1")
    assert stream.kept(CLUSTER) is None


def test_a_wildcard_that_is_given_up():
    stream = Stream(Flavour.DELTA)
    stream.ask(CLUSTER, ["*", "a"])
    stream.push(CLUSTER, "ab", "1")
    stream.ask(CLUSTER, nonce="1")
    stream.ask(CLUSTER, gone="*")
    stream.push(CLUSTER, "abc", "2")
    stream.ask(CLUSTER, nonce="2")
    assert stream.kept(CLUSTER) == "ab"
    stream.ask(CLUSTER, gone="b")
    assert stream.kept(CLUSTER) == "a"
