"""When drift is repaired and what is said about it: a pure state machine. Times are seconds of one monotonic clock."""

from agent.backoff import Backoff
from agent.record import record, replace

QUIET = 60.0  # seconds without drift after which an opponent counts as gone
PATIENCE = 3  # repairs within QUIET that happen at once; then each next one waits longer
FIGHT = Backoff(initial=1.0, cap=60.0)


@record
class State:
    broken_since: float | None = None  # when drift was first seen; None = the rules are as planned
    repaired_at: float | None = None  # the last repair that was tried
    repeats: int = 0  # repairs within QUIET of each other
    not_before: float = 0.0  # the next repair may not come earlier
    told: tuple[str, ...] = ()  # the differences that were reported last


@record
class Report:
    """Say that rules are missing or wrong. `differences`: one phrase each."""

    differences: tuple[str, ...]


@record
class Repair:
    pass


@record
class LookAgain:
    """Verify again at this time, not only at the next period."""

    at: float


@record
class Fight:
    """Somebody removes the rules again and again; the next repair waits until `at`."""

    repeats: int
    at: float


@record
class Restored:
    """The rules are as planned again, `seconds` after drift was noticed."""

    seconds: float
    by_us: bool


Action = Report | Repair | LookAgain | Fight | Restored


def verified(
    state: State, differences: tuple[str, ...], noticed: float, now: float, *, may_repair: bool
) -> tuple[State, list[Action]]:
    """After a look at the rules. `noticed`: when the sign of drift came (an event, a crash, the period)."""
    if not differences:
        if state.broken_since is None:
            return state, []
        by_us = state.repaired_at is not None and state.repaired_at >= state.broken_since
        return replace(state, broken_since=None, told=()), [Restored(now - state.broken_since, by_us)]
    actions: list[Action] = []
    if differences != state.told:
        actions.append(Report(differences))
    state = replace(state, told=differences)
    if state.broken_since is None:
        state = replace(state, broken_since=min(noticed, now))
    if not may_repair:
        return state, actions
    if now < state.not_before:
        return state, [*actions, LookAgain(state.not_before)]
    return state, [*actions, Repair()]


def repaired(state: State, now: float) -> tuple[State, list[Action]]:
    """After a repair was tried, whether it worked or not; the caller verifies next."""
    # The wait that this guard imposed on itself is no proof of peace.
    recent = state.repaired_at is not None and now - max(state.repaired_at, state.not_before) < QUIET
    repeats = state.repeats + 1 if recent else 0
    state = replace(state, repaired_at=now, repeats=repeats)
    if repeats < PATIENCE:
        return replace(state, not_before=now), []
    at = now + FIGHT.delay(repeats - PATIENCE)
    return replace(state, not_before=at), [Fight(repeats, at)]
