"""The table of an Envoy's life: events in, actions out, with a clock made of numbers; then all of its states."""

from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.envoy.exits import Exit
from agent.envoy.lifecycle import (
    Action,
    Connections,
    CountConnections,
    Drain,
    Drained,
    Ended,
    Event,
    Finish,
    Kill,
    Policy,
    Spawn,
    Started,
    State,
    StopAsked,
    Tick,
    Wake,
    step,
)
from agent.model import EnvoyPhase
from agent.record import replace
from tests.fakes import life

CRASH = Ended(Exit(-11))
TERM = StopAsked("SIGTERM", drain=True)
QUIT = StopAsked("/quitquitquit", drain=False, hurry=True)
POLICY = Policy()
ZERO = Policy(exit_on_zero=True, minimum_drain=5.0, drain=60.0)


def play(policy: Policy, *script: tuple[float, Event]) -> tuple[State, list[list[Action]]]:
    state, out = State(), []
    for now, event in script:
        state, actions = step(state, event, now, policy)
        out.append(actions)
    return state, out


def test_the_first_restart_is_at_once() -> None:
    state, actions = play(POLICY, (0, Started(10)), (7, CRASH))
    assert actions[-1] == [Spawn()]
    assert state.envoy.phase is EnvoyPhase.RESTARTING
    assert (state.envoy.pid, state.envoy.crashes, state.envoy.restarts) == (None, 1, 0)
    assert state.envoy.last_exit == "was killed by SIGSEGV"
    state, _ = step(state, Started(11), 7.01, POLICY)
    assert (state.envoy.phase, state.envoy.pid, state.envoy.restarts) == (EnvoyPhase.RUNNING, 11, 1)


def test_further_restarts_wait_longer_until_the_budget_is_spent() -> None:
    state, now, waits = State(), 0.0, []
    state, _ = step(state, Started(1), now, POLICY)
    for _ in range(5):
        state, actions = step(state, CRASH, now, POLICY)
        if actions == [Spawn()]:
            waits.append(0.0)
        else:
            [wake] = actions
            assert isinstance(wake, Wake)
            waits.append(wake.at - now)
            now = wake.at
            state, actions = step(state, Tick(), now, POLICY)
            assert actions == [Spawn()]
        state, _ = step(state, Started(2), now, POLICY)
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0]
    state, [finish] = step(state, CRASH, now, POLICY)
    assert isinstance(finish, Finish)
    assert finish.failure == (
        "Envoy was killed by SIGSEGV; that was crash number 6 within 60 s, more than ENVOY_RESTARTS=5 allows."
    )
    assert state.envoy.phase is EnvoyPhase.GIVEN_UP


def test_crashes_outside_the_window_are_forgotten() -> None:
    script: list[tuple[float, Event]] = [(0, Started(1))]
    for i in range(50):
        script += [(100.0 * i, CRASH), (100.0 * i + 1, Started(i + 2))]
    state, actions = play(POLICY, *script)
    assert all(a == [Spawn()] for a in actions[1::2])
    assert state.envoy.crashes == 50
    assert len(state.crashes) == 1


def test_without_a_budget_the_agent_ends_with_envoy() -> None:
    _, actions = play(Policy(restarts=0), (0, Started(1)), (1, Ended(Exit(1))))
    assert actions[-1] == [Finish("Envoy exited with status 1, and ENVOY_RESTARTS=0 asks to end with it.")]


def test_an_exit_with_status_zero_was_asked_for() -> None:
    state, actions = play(POLICY, (0, Started(1)), (1, Ended(Exit(0))))
    assert actions[-1] == [Finish()]
    assert (state.envoy.phase, state.envoy.crashes) == (EnvoyPhase.STOPPED, 0)


def test_a_start_that_fails_counts_as_a_crash() -> None:
    _, actions = play(POLICY, (0, Started(1)), (1, CRASH), (1, Ended(Exit(-1, error="no such file"))))
    assert actions[-1] == [Wake(1.5)]


def test_termination_drains_waits_and_kills() -> None:
    state, actions = play(Policy(drain=5.0), (0, Started(1)), (10, TERM), (15, Tick()), (15.1, Ended(Exit(-9))))
    assert actions[1:] == [[Drain(), Wake(15.0)], [Kill()], [Finish()]]
    assert (state.envoy.phase, state.envoy.crashes) == (EnvoyPhase.STOPPED, 0)


@pytest.mark.parametrize("exit_status", [0, 1, -9, -11])
def test_an_end_while_draining_ends_the_wait(exit_status: int) -> None:
    state, actions = play(Policy(drain=600.0), (0, Started(1)), (1, TERM), (2, Ended(Exit(exit_status))))
    assert actions[-1] == [Finish()]
    assert state.envoy.crashes == 0


def test_quitting_kills_at_once() -> None:
    _, actions = play(POLICY, (0, Started(1)), (1, QUIT), (1, Ended(Exit(-9))))
    assert actions[1:] == [[Kill()], [Finish()]]


def test_after_the_drain_hook_termination_kills_at_once() -> None:
    state, actions = play(POLICY, (0, Started(1)), (1, Drained()))
    assert state.envoy.phase is EnvoyPhase.RUNNING  # /drain does not touch readiness
    assert step(state, TERM, 2, POLICY)[1] == [Kill()]
    # A restarted Envoy has open listeners, so the hook's promise is void.
    state, actions = play(POLICY, (0, Started(1)), (1, Drained()), (2, CRASH), (2, Started(2)), (3, TERM))
    assert actions[-1] == [Drain(), Wake(8.0)]


def test_more_requests_to_end_change_nothing_unless_they_hurry() -> None:
    state, _ = play(POLICY, (0, Started(1)), (1, TERM))
    same, actions = step(state, TERM, 2, POLICY)
    assert (same, actions) == (state, [])
    assert step(state, StopAsked("SIGTERM", drain=True, hurry=True), 2, POLICY)[1] == [Kill()]
    assert step(state, QUIT, 2, POLICY)[1] == [Kill()]


def test_a_request_to_end_while_no_envoy_runs() -> None:
    state, actions = play(POLICY, (0, Started(1)), (0, CRASH), (0, Started(2)), (1, CRASH), (1.2, TERM))
    assert actions[-1] == [Finish()]
    assert state.envoy.phase is EnvoyPhase.STOPPED


@pytest.mark.parametrize(
    ("policy", "at"),
    [
        (Policy(drain=60.0, grace=30.0), 39.0),
        (Policy(drain=5.0, grace=30.0), 15.0),
        (Policy(drain=5.0, grace=0.5), 10.0),
        (replace(ZERO, minimum_drain=60.0, grace=30.0), 39.0),
    ],
)
def test_the_kill_comes_before_the_grace_period_ends(policy: Policy, at: float) -> None:
    _, actions = play(policy, (0, Started(1)), (10, TERM))
    assert actions[-1] == [Drain(), Wake(at)]


def test_waiting_for_the_last_connection() -> None:
    script = [(0, Started(1)), (10, TERM), (15, Tick()), (15, Connections(2)), (16, Tick()), (16, Connections(0))]
    _, actions = play(ZERO, *script)
    assert actions[1:] == [[Drain(), Wake(15.0)], [CountConnections()], [Wake(16.0)], [CountConnections()], [Kill()]]


def test_no_statistics_at_all_mean_no_connections() -> None:
    assert play(ZERO, (0, Started(1)), (10, TERM), (15, Tick()), (15, Connections(-1)))[1][-1] == [Kill()]


def test_the_fifth_failure_in_a_row_kills() -> None:
    state, _ = play(ZERO, (0, Started(1)), (10, TERM), (15, Tick()))
    for now in (15, 16, 17, 18):
        state, actions = step(state, Connections(None), now, ZERO)
        assert actions == [Wake(now + 1.0)]
    again, _ = step(state, Connections(1), 19, ZERO)
    assert again.failures == 0
    assert step(state, Connections(None), 19, ZERO)[1] == [Kill()]


def test_the_deadline_ends_the_wait_for_connections() -> None:
    policy = replace(ZERO, grace=10.0)
    state, _ = play(policy, (0, Started(1)), (10, TERM), (15, Tick()))
    state, actions = step(state, Connections(7), 18.5, policy)
    assert actions == [Wake(19.0)]
    assert step(state, Tick(), 19.0, policy)[1] == [Kill()]


def test_late_answers_and_ticks_of_another_phase_are_ignored() -> None:
    state, _ = play(POLICY, (0, Started(1)))
    assert step(state, Tick(), 1, POLICY) == (state, [])
    assert step(state, Connections(0), 1, POLICY) == (state, [])


# ---------------------------------------------------------------------------------------- every reachable state

POLICIES = [
    Policy(restarts=restarts, exit_on_zero=zero, grace=grace, drain=2.0, minimum_drain=1.0)
    for restarts in (0, 1, 2)
    for zero in (False, True)
    for grace in (0.0, 3.5)
]
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.restarts}-{p.exit_on_zero}-{p.grace:g}")


@lru_cache
def space(policy: Policy) -> life.Space:
    return life.explore(policy)


@every_policy
def test_no_event_in_any_state_breaks_the_rules(policy: Policy) -> None:
    found = space(policy)
    assert {w.state.envoy.phase for w in found.worlds} == set(EnvoyPhase) - (
        {EnvoyPhase.RESTARTING} if policy.restarts == 0 else set()
    )
    for move in found.moves:
        before, actions = move.before, move.actions
        running = before.process and not isinstance(move.event, Ended)
        assert actions.count(Spawn()) <= 1, move
        if Spawn() in actions:
            assert not running, f"two Envoys: {move}"
            assert not before.asked, f"started after the end was asked for: {move}"
            assert len(move.after.state.crashes) <= policy.restarts, move
        if Kill() in actions:
            assert running, move
        if any(isinstance(a, Drain | CountConnections) for a in actions):
            assert running, move
            assert before.asked or isinstance(move.event, StopAsked), move
        for action in actions:
            if isinstance(action, Finish):
                assert not running, f"finished while Envoy runs: {move}"
                assert len(actions) == 1, move
                assert bool(action.failure) == (move.after.state.envoy.phase is EnvoyPhase.GIVEN_UP), move
                assert not (action.failure and before.asked), f"a wish is no failure: {move}"
            if isinstance(action, Wake) and move.after.asked:
                assert action.at <= move.at + max(move.after.state.deadline, 0.0), f"the kill would come late: {move}"


@every_policy
def test_every_state_is_what_it_says_and_waits_for_something(policy: Policy) -> None:
    for world in space(policy).worlds:
        phase = world.state.envoy.phase
        assert world.state.alive == world.process, world
        if world.finished:
            assert phase in (EnvoyPhase.STOPPED, EnvoyPhase.GIVEN_UP), world
        elif world.process:
            assert phase is (EnvoyPhase.DRAINING if world.asked else EnvoyPhase.RUNNING), world
            if world.asked:
                assert world.killed or world.counting or world.wake is not None, f"it would drain for ever: {world}"
        else:
            assert phase is EnvoyPhase.RESTARTING, world
            assert not world.asked, world
            assert world.failed or world.wake is not None, f"it would never be restarted: {world}"


@every_policy
def test_nothing_happens_after_the_end(policy: Policy) -> None:
    events = [*life.STOPS, *life.COUNTS, Drained(), Tick()]
    for world in space(policy).worlds:
        for event in events if world.finished else ():
            _, actions = step(world.state, event, 1.0, policy)
            assert all(isinstance(a, Finish) for a in actions), (world, event)


@every_policy
def test_a_wish_to_end_always_leads_to_the_end(policy: Policy) -> None:
    """Whatever Envoy answers: with a deadline always, without one as soon as no connection is left."""
    onwards: dict[life.World, set[life.World]] = {}
    for move in space(policy).moves:
        endless = policy.exit_on_zero and policy.grace == 0 and move.event == Connections(3)
        if move.expected and move.before.asked and not endless:
            onwards.setdefault(move.before, set()).add(move.after)
    done: set[life.World] = set()

    def end(world: life.World, path: tuple[life.World, ...]) -> None:
        assert world not in path, f"a circle of {len(path)} states: {world}"
        if world not in done and not world.finished:
            assert onwards[world], world
            for following in onwards[world]:
                end(following, (*path, world))
        done.add(world)

    for world in space(policy).worlds:
        if world.asked:
            end(world, ())


@every_policy
def test_a_second_and_stronger_wish_kills_whatever_was_going_on(policy: Policy) -> None:
    strong = [stop for stop in life.STOPS if stop.hurry]
    for move in space(policy).moves:
        if move.event in strong and move.before.process:
            assert Kill() in move.actions, move


@every_policy
def test_a_crash_is_repaired_or_ends_the_agent(policy: Policy) -> None:
    """From every state without Envoy, when no start fails: a restart, or the end with the cause."""
    for move in space(policy).moves:
        if isinstance(move.event, Ended) and not move.before.asked and not move.event.how.clean:
            after = move.after
            repaired = after.process or after.wake is not None or after.failed
            assert repaired or (after.finished is not None and after.finished.failure), move


EVENTS = st.one_of(
    st.builds(Ended, st.builds(Exit, st.integers(-64, 255), st.booleans())),
    st.builds(StopAsked, st.just("x"), st.booleans(), st.booleans()),
    st.just(Drained()),
    st.just(Tick()),
    st.builds(Connections, st.one_of(st.none(), st.integers(-1, 5))),
)


@given(st.lists(st.tuples(st.floats(0, 100), EVENTS), max_size=40), st.integers(0, 6), st.booleans())
def test_envoy_is_never_started_twice_nor_after_the_end(
    script: list[tuple[float, Event]], restarts: int, zero: bool
) -> None:
    policy = Policy(restarts=restarts, exit_on_zero=zero)
    state, now, running, asked = State(), 0.0, True, False
    state, _ = step(state, Started(1), now, policy)
    for wait, event in script:
        now += wait
        if isinstance(event, Ended) and not running:
            continue
        asked = asked or isinstance(event, StopAsked)
        running = running and not isinstance(event, Ended)
        state, actions = step(state, event, now, policy)
        for action in actions:
            if action == Spawn():
                assert not running
                assert not asked
                running = True
                state, more = step(state, Started(2), now, policy)
                assert more == []
            if action == Kill():
                assert running
            if isinstance(action, Finish):
                assert not running
                assert bool(action.failure) == (state.envoy.phase is EnvoyPhase.GIVEN_UP)
                return
        assert state.alive == running
