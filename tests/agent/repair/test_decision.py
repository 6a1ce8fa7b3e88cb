"""When drift is reported, repaired and given time, with a clock made of numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.repair.decision import (
    PATIENCE,
    QUIET,
    Fight,
    LookAgain,
    Repair,
    Report,
    Restored,
    State,
    repaired,
    verified,
)

GONE = ("jump missing",)


def test_nothing_is_said_about_rules_that_are_in_place() -> None:
    assert verified(State(), (), 1.0, 1.0, may_repair=True) == (State(), [])


def test_drift_is_reported_and_repaired_at_once_and_timed_from_its_first_sign() -> None:
    state, actions = verified(State(), GONE, noticed=10.0, now=10.01, may_repair=True)
    assert actions == [Report(GONE), Repair()]
    state, actions = repaired(state, 10.03)
    assert actions == []
    state, actions = verified(state, (), noticed=10.0, now=10.04, may_repair=True)
    [restored] = actions
    assert isinstance(restored, Restored)
    assert (restored.by_us, restored.seconds) == (True, pytest.approx(0.04))
    assert state.broken_since is None


def test_the_same_drift_is_reported_once() -> None:
    state, _ = verified(State(), GONE, 1.0, 1.0, may_repair=False)
    state, actions = verified(state, GONE, 2.0, 2.0, may_repair=False)
    assert actions == []
    _, actions = verified(state, ("something else",), 3.0, 3.0, may_repair=False)
    assert actions == [Report(("something else",))]


def test_rules_that_come_back_by_themselves() -> None:
    state, _ = verified(State(), GONE, 1.0, 1.0, may_repair=False)
    _, actions = verified(state, (), 5.0, 5.0, may_repair=False)
    assert actions == [Restored(4.0, by_us=False)]


def fight(seconds: float, rounds: int) -> list[float]:
    """Somebody removes the rules every `seconds`; the waits that the guard imposed on itself."""
    state, now, waits = State(), 0.0, []
    for _ in range(rounds):
        state, actions = verified(state, GONE, now, now, may_repair=True)
        again = [a.at for a in actions if isinstance(a, LookAgain)]
        if again:
            waits.append(again[0] - now)
            now = again[0]
            state, actions = verified(state, GONE, now, now, may_repair=True)
        assert actions[-1] == Repair()
        state, more = repaired(state, now)
        assert (len(more) == 1 and isinstance(more[0], Fight)) == (state.not_before > now)
        state, _ = verified(state, (), now, now, may_repair=True)
        now += seconds
    return waits


def test_a_fight_slows_down() -> None:
    assert fight(0.0, 12) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_rare_removals_are_no_fight() -> None:
    assert fight(QUIET, 50) == []


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60))
def test_repairs_are_bounded_in_any_minute(script: list[tuple[float, bool]]) -> None:
    state, now, repairs = State(), 0.0, list[float]()
    for wait, broken in script:
        now += wait
        state, actions = verified(state, GONE if broken else (), now, now, may_repair=True)
        if Repair() in actions:
            assert broken
            repairs.append(now)
            state, _ = repaired(state, now)
    for i, first in enumerate(repairs):
        assert sum(1 for r in repairs[i:] if r < first + 30) <= PATIENCE + 6
