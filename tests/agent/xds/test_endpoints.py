from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.xds.endpoints import Candidate, Endpoints, redial

A, B, C = (Candidate(f"{name}:1", name, (place, 0)) for place, name in enumerate("abc"))
EVEN = lambda: 0.5  # noqa: E731


def addresses(candidates):
    return "".join(candidate.name for candidate in candidates)


def test_as_configured_while_nothing_is_known():
    assert addresses(Endpoints().order([A, B, C], 0, EVEN)) == "abc"
    assert Endpoints().order([], 0, EVEN) == []


def test_what_failed_is_behind_the_others_for_a_while_and_longer_each_time():
    endpoints = Endpoints()
    endpoints.order([A, B, C], 0, EVEN)
    endpoints.failed("a:1", "refused", 0, 0.5)
    assert addresses(endpoints.order([A, B, C], 0.9, EVEN)) == "bca"
    assert addresses(endpoints.order([A, B, C], 1.0, EVEN)) == "abc"
    endpoints.failed("a:1", "refused", 1, 0.5)
    assert addresses(endpoints.order([A, B, C], 2.9, EVEN)) == "bca"
    assert addresses(endpoints.order([A, B, C], 3.0, EVEN)) == "abc"


def test_of_those_that_failed_the_first_to_be_forgiven_comes_first():
    endpoints = Endpoints()
    endpoints.order([A, B, C], 0, EVEN)
    for address, now in (("c:1", 0.0), ("a:1", 0.1), ("b:1", 0.2)):
        endpoints.failed(address, "refused", now, 0.5)
    assert addresses(endpoints.order([A, B, C], 0.5, EVEN)) == "cab"


def test_an_answer_forgives():
    endpoints = Endpoints()
    endpoints.order([A, B], 0, EVEN)
    endpoints.failed("a:1", "reset", 0, 0.5)
    [standing, _] = endpoints.standings(0.25)
    assert (standing.address, standing.failures, standing.behind, standing.error) == ("a:1", 1, 0.75, "reset")
    endpoints.answered("a:1")
    assert addresses(endpoints.order([A, B], 0, EVEN)) == "ab"
    assert endpoints.standings(0)[0].error == ""


def test_what_is_no_longer_there_is_forgotten():
    endpoints = Endpoints()
    endpoints.order([A, B], 0, EVEN)
    endpoints.failed("a:1", "refused", 0, 0.5)
    endpoints.order([B], 0, EVEN)
    assert [standing.address for standing in endpoints.standings(0)] == ["b:1"]
    endpoints.failed("a:1", "late", 0, 0.5)  # a stream that still had it
    assert addresses(endpoints.order([A, B], 0, EVEN)) == "ab"


def test_each_address_once_with_its_best_rank():
    twice = Candidate("b:1", "b", (0, 0))
    assert addresses(Endpoints().order([A, B, twice, C], 0, EVEN)) in ("abc", "bac")


def test_weights_decide_among_equals():
    random, heavy, light = Random(7), Candidate("h:1", "h", weight=90), Candidate("l:1", "l", weight=10)
    first = Counter(Endpoints().order([light, heavy], 0, random.random)[0].name for _ in range(2000))
    assert 0.85 < first["h"] / 2000 < 0.95


def test_the_place_among_equals_is_drawn_once():
    random, endpoints = Random(1), Endpoints()
    several = [Candidate(f"10.0.0.{i}:1", "x") for i in range(20)]
    first = endpoints.order(several, 0, random.random)
    assert first != several
    assert all(endpoints.order(several, 0, random.random) == first for _ in range(5))


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.floats(0, 0.999))
def test_a_wait_never_takes_more_than_a_tenth_of_the_outage(attempt, away, random):
    wait = redial(attempt, away, random)
    assert 0 <= wait <= 5
    assert wait <= max(0.4, away / 10)
    assert attempt == 0 or wait >= 0.05


@pytest.mark.parametrize(("away", "waits"), [(4, [0, 0.1, 0.2, 0.4, 0.4]), (100, [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5])])
def test_waits_double(away, waits):
    assert [redial(attempt, away, 1.0) for attempt in range(len(waits))] == pytest.approx(waits)
