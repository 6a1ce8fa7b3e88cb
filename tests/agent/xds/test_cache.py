import tracemalloc

import pytest

from agent.xds.cache import CLUSTER, ENDPOINTS, Cache, Kept
from agent.xds.slices import Parts, split
from agent.xds.wire import Flavour
from tests.agent.xds import tape


def parts(names="", removed="", version="v", entry=b"12345"):
    return Parts(tuple((name, entry) for name in names), tuple(removed), version)


def held(cache, type_url):
    kept = cache.types().get(type_url)
    return {} if kept is None else {name: len(entry) for name, entry in kept.entries.items()}


def test_removals_and_what_was_never_seen():
    cache = Cache(1000)
    cache.accepted_delta(CLUSTER, parts("ab"), set(), wildcard=True, held=frozenset("cd"))
    kept = cache.types()[CLUSTER]
    assert kept.missing == {"c", "d"}
    cache.accepted_delta(CLUSTER, parts("c", "ad"), set(), wildcard=True)
    assert held(cache, CLUSTER) == {"b": 5, "c": 5}
    assert kept.missing == set()
    assert kept.revision == 2
    cache.accepted_delta(CLUSTER, parts("e"), set(), wildcard=True, held=frozenset("b"))
    assert held(cache, CLUSTER) == {"b": 5, "e": 5}


def test_a_name_that_was_asked_for_and_does_not_exist():
    cache = Cache(1000)
    cache.accepted_delta(ENDPOINTS, parts("a", "b"), {"a", "b"}, wildcard=False)
    assert held(cache, ENDPOINTS) == {"a": 5, "b": 0}
    cache.accepted_delta(ENDPOINTS, parts("bz"), {"a", "b"}, wildcard=False)
    assert held(cache, ENDPOINTS) == {"a": 5, "b": 5}
    cache.forget(ENDPOINTS, ["b", "nothing"])
    cache.retain(ENDPOINTS, {"x"})
    assert held(cache, ENDPOINTS) == {}
    assert cache.size == 0


def test_partial_and_whole_states():
    cache = Cache(1000)
    cache.accepted_state(ENDPOINTS, parts("ab"), ["a", "b"], whole=False)
    cache.accepted_state(ENDPOINTS, parts("b", version="w", entry=b"1"), ["a", "b"], whole=False)
    assert held(cache, ENDPOINTS) == {"a": 5, "b": 1}
    assert cache.types()[ENDPOINTS].version == "w"
    cache.accepted_state(CLUSTER, parts("ab"), [], whole=True)
    cache.accepted_state(CLUSTER, parts("b"), [], whole=True)
    assert held(cache, CLUSTER) == {"b": 5}


def test_above_its_limit_it_empties_itself_for_good():
    cache = Cache(20)
    cache.accepted_delta(CLUSTER, parts("abc"), set(), wildcard=True)
    assert cache.size == 18
    assert not cache.off
    cache.accepted_delta(CLUSTER, parts("d"), set(), wildcard=True)
    assert cache.off == "the configuration of 24 bytes is larger than XDS_CACHE_MAX_BYTES (20)"
    assert cache.types() == {}
    assert not cache.wants(CLUSTER)
    cache.restore(CLUSTER, Kept(Flavour.DELTA))
    assert cache.types() == {}


def test_a_limit_of_nothing_is_off():
    assert Cache(0).off


def test_the_other_flavour_starts_anew():
    cache = Cache(1000)
    cache.accepted_delta(CLUSTER, parts("a"), set(), wildcard=True)
    cache.accepted_state(CLUSTER, parts("b"), [], whole=True)
    assert held(cache, CLUSTER) == {"b": 5}
    assert cache.get(Flavour.DELTA, CLUSTER) is None
    assert cache.types()[CLUSTER].revision == 2


def test_what_is_there_is_not_replaced_by_what_was():
    cache = Cache(1000)
    cache.restore(CLUSTER, old := Kept(Flavour.DELTA))
    cache.restore(CLUSTER, Kept(Flavour.DELTA))
    assert cache.types()[CLUSTER] is old


def cost(flavour, frames):
    """(bytes that the interpreter allocated for the cache, bytes of the responses that were put into it)."""
    cache = Cache(1 << 30)
    tracemalloc.start()
    try:
        for type_url, frame in frames:
            taken = split(flavour, frame)
            if flavour is Flavour.DELTA:
                cache.accepted_delta(type_url, taken, {name for name, _ in taken.resources}, wildcard=True)
            else:
                cache.accepted_state(type_url, taken, [], whole=True)
            del taken
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["delta-reconnect", "sotw-reconnect"])
def test_the_cost_is_the_payload_and_a_fifth_at_most(kind):
    """A hundred clusters, endpoints, listeners and routes of a real control plane, as small as resources get."""
    wanted = [(e["type_url"], f) for e, f in tape.load(kind) if e["direction"] == "response"]
    frames = {type_url: frame for type_url, frame in wanted if ".envoy." in type_url or "/envoy." in type_url}
    assert len(frames) == 4
    payload = sum(map(len, frames.values()))
    measured = cost(tape.flavour(kind), list(frames.items()))
    print(f"{kind}: {payload} bytes of payload cost {measured}")
    assert measured <= payload * 1.2
