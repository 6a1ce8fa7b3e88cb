"""Every state that Envoy's life can reach: a small model of the world around lifecycle.py, and all its moves."""

from collections import deque
from dataclasses import dataclass, field
from dataclasses import replace as change

from agent.envoy import lifecycle
from agent.envoy.exits import Exit
from agent.model import EnvoyPhase
from agent.record import replace

STOPS = (
    lifecycle.StopAsked("SIGTERM", drain=True),
    lifecycle.StopAsked("Ctrl-C twice", drain=True, hurry=True),
    lifecycle.StopAsked("/quitquitquit", drain=False, hurry=True),
)
COUNTS = tuple(lifecycle.Connections(n) for n in (None, -1, 0, 3))
CANNOT_START = lifecycle.Ended(Exit(-1, error="there is no such file"))


@dataclass(frozen=True)
class World:
    """`state` and what exists outside of it. Times are relative to now: 0 is now, the past is negative."""

    state: lifecycle.State
    process: bool = False  # an Envoy runs
    killed: bool = False  # ... and has been sent SIGKILL
    wake: float | None = None  # the timer
    counting: bool = False  # a look at the connections is under way
    failed: bool = False  # a start has failed and the news is in the queue
    asked: bool = False
    finished: lifecycle.Finish | None = None


@dataclass(frozen=True)
class Move:
    """One event in one world, what it led to and what the machine ordered."""

    before: World
    event: lifecycle.Event
    at: float  # how far the clock went before it
    expected: bool  # the world owed us this one; a late or surprising one otherwise
    actions: tuple[lifecycle.Action, ...]
    after: World
    spawn_fails: bool = False


@dataclass
class Space:
    worlds: set[World] = field(default_factory=set)
    moves: list[Move] = field(default_factory=list)


def explore(policy: lifecycle.Policy) -> Space:
    """From one running Envoy, everything that events in any order can lead to."""
    state, actions = lifecycle.step(lifecycle.State(), lifecycle.Started(1), 0.0, policy)
    assert actions == []
    first = _normal(World(state, process=True), 0.0, policy)
    space = Space({first})
    todo = deque([first])
    while todo:
        world = todo.popleft()
        if world.finished:
            continue
        for move in _moves(world, policy):
            space.moves.append(move)
            if move.after not in space.worlds:
                space.worlds.add(move.after)
                todo.append(move.after)
        assert len(space.worlds) < 20_000, "the model has no end"
    return space


def _moves(world: World, policy: lifecycle.Policy) -> list[Move]:
    owed: list[tuple[lifecycle.Event, float]] = []
    surprising: list[tuple[lifecycle.Event, float]] = [(stop, 0.0) for stop in STOPS]
    surprising += [(lifecycle.Drained(), 0.0), (lifecycle.Tick(), 0.0)]
    if world.process:
        ends = (
            [lifecycle.Ended(Exit(-9))]
            if world.killed
            else [lifecycle.Ended(Exit(-11)), lifecycle.Ended(Exit(0)), lifecycle.Ended(Exit(-9, oom=True))]
        )
        (owed if world.killed else surprising).extend((end, 0.0) for end in ends)
        if not world.asked:
            surprising.append((lifecycle.Drained(), policy.window + 1.0))  # a long time without anything
    if world.failed:
        owed.append((CANNOT_START, 0.0))
    if world.wake is not None:
        owed.append((lifecycle.Tick(), max(0.0, world.wake)))
    (owed if world.counting else surprising).extend((count, 0.0) for count in COUNTS)
    return [
        _perform(world, event, at, expected, fails, policy)
        for events, expected in ((owed, True), (surprising, False))
        for event, at in events
        for fails in (False, True)
    ]


def _perform(
    world: World, event: lifecycle.Event, now: float, expected: bool, spawn_fails: bool, policy: lifecycle.Policy
) -> Move:
    after = world
    match event:
        case lifecycle.Ended():
            after = change(after, process=False, killed=False, failed=False)
        case lifecycle.StopAsked():
            after = change(after, asked=True)
        case lifecycle.Tick() if expected:
            after = change(after, wake=None)
        case lifecycle.Connections():
            after = change(after, counting=False)
    state, actions = lifecycle.step(world.state, event, now, policy)
    for action in actions:
        match action:
            case lifecycle.Spawn() if spawn_fails:
                after = change(after, failed=True)
            case lifecycle.Spawn():
                after = change(after, process=True)
                state, more = lifecycle.step(state, lifecycle.Started(1), now, policy)
                assert more == []
            case lifecycle.Wake(at):
                after = change(after, wake=at)
            case lifecycle.CountConnections():
                after = change(after, counting=True)
            case lifecycle.Kill():
                after = change(after, killed=True)
            case lifecycle.Finish():
                after = change(after, finished=action)
    after = _normal(change(after, state=state), now, policy)
    return Move(world, event, now, expected, tuple(actions), after, spawn_fails)


def _normal(world: World, now: float, policy: lifecycle.Policy) -> World:
    """The same world with its clock set to 0, without the counters that only grow."""
    state = world.state
    # Once the end was asked for nothing is restarted: the crashes do not matter any more.
    crashes = () if world.asked else tuple(round(max(t - now, -policy.window - 1.0), 6) for t in state.crashes)
    envoy = replace(state.envoy, restarts=0, crashes=0, last_exit="")
    failures = min(state.failures, lifecycle.POLL_FAILURES)
    state = replace(state, envoy=envoy, crashes=crashes, deadline=round(state.deadline - now, 6), failures=failures)
    if world.wake is not None:
        world = change(world, wake=max(0.0, round(world.wake - now, 6)))
    if state.envoy.phase is EnvoyPhase.DRAINING and world.killed:
        world = change(world, wake=None, counting=False)  # the timer may still ring; nobody cares
    return change(world, state=state)
