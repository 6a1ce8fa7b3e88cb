"""When to start, drain, kill and give up on Envoy: a pure state machine. Times are seconds of one monotonic clock."""

from typing import Self

from agent.config import EnvoyConfig
from agent.envoy.exits import Exit
from agent.model import EnvoyPhase, EnvoyState
from agent.record import record, replace

POLL_INTERVAL = 1.0  # between two looks at the connection count
POLL_FAILURES = 5  # consecutive; then Envoy is considered deaf
DEADLINE_MARGIN = 1.0  # seconds before the grace period ends: the kubelet's SIGKILL must not come first
FIRST_DELAY = 0.5  # before the second restart; doubles with each further one


@record
class Policy:
    restarts: int = 5  # crashes tolerated within `window`; 0 = end with Envoy
    window: float = 60.0
    drain: float = 5.0  # seconds between the drain call and the kill
    minimum_drain: float = 5.0  # before the first look at the connection count
    exit_on_zero: bool = False  # kill when no connection is left, not after `drain`
    grace: float = 0.0  # from the request to end until the kill at the latest; 0 = unknown, no limit

    @classmethod
    def of(cls, config: EnvoyConfig) -> Self:
        return cls(
            restarts=config.restarts,
            window=config.restart_window,
            drain=max(0.0, config.termination_drain_duration),
            minimum_drain=max(0.0, config.minimum_drain_duration),
            exit_on_zero=config.exit_on_zero_connections,
            grace=config.grace_period,
        )


# Events -------------------------------------------------------------------------------------------------------------
@record
class Started:
    pid: int


@record
class Ended:
    """Envoy ended, or could not be started."""

    how: Exit


@record
class StopAsked:
    cause: str
    drain: bool
    hurry: bool = False


@record
class Drained:
    """The preStop hook drained Envoy for good: the request to end that follows needs no wait."""


@record
class Tick:
    """The time asked for with `Wake` has come."""


@record
class Connections:
    """Open downstream connections; −1 = Envoy does not know any such statistic, None = it did not answer."""

    count: int | None


Event = Started | Ended | StopAsked | Drained | Tick | Connections


# Actions ------------------------------------------------------------------------------------------------------------
@record
class Spawn:
    pass


@record
class Drain:
    """POST /drain_listeners."""


@record
class Wake:
    """Send `Tick` at this time; replaces the previous wish."""

    at: float


@record
class CountConnections:
    """Send `Connections`."""


@record
class Kill:
    """SIGKILL for the process group; `Ended` follows."""


@record
class Finish:
    """The supervision is over; `failure` = one sentence if Envoy was given up, else the process may exit with 0."""

    failure: str = ""


Action = Spawn | Drain | Wake | CountConnections | Kill | Finish


@record
class State:
    """`envoy` is what everybody may see; the rest is for this machine."""

    envoy: EnvoyState = EnvoyState(EnvoyPhase.STOPPED)
    crashes: tuple[float, ...] = ()  # times of those that the window still covers
    drained: bool = False
    stop_cause: str = ""
    deadline: float = float("inf")
    failures: int = 0  # consecutive, of the connection count

    @property
    def alive(self) -> bool:
        return self.envoy.pid is not None


def step(state: State, event: Event, now: float, policy: Policy) -> tuple[State, list[Action]]:
    """The next state and what to do now."""
    match event:
        case Started(pid):
            return _started(state, pid)
        case Ended(how):
            return _ended(state, how, now, policy)
        case StopAsked():
            return _stop(state, event, now, policy)
        case Drained():
            return replace(state, drained=True), []
        case Tick():
            return _tick(state, now, policy)
        case Connections(count):
            return _counted(state, count, now)


def _started(state: State, pid: int) -> tuple[State, list[Action]]:
    again = state.envoy.phase is EnvoyPhase.RESTARTING
    envoy = replace(state.envoy, phase=EnvoyPhase.RUNNING, pid=pid, restarts=state.envoy.restarts + again)
    # A new process has open listeners again, whatever was drained before.
    return replace(state, envoy=envoy, drained=False), []


def _ended(state: State, how: Exit, now: float, policy: Policy) -> tuple[State, list[Action]]:
    envoy = replace(state.envoy, pid=None, last_exit=how.phrase)
    if state.stop_cause or how.clean:
        return replace(state, envoy=replace(envoy, phase=EnvoyPhase.STOPPED)), [Finish()]
    recent = (*(t for t in state.crashes if t > now - policy.window), now)
    envoy = replace(envoy, crashes=envoy.crashes + 1)
    if len(recent) > policy.restarts:
        envoy = replace(envoy, phase=EnvoyPhase.GIVEN_UP)
        return replace(state, envoy=envoy, crashes=recent), [Finish(_failure(how, len(recent), policy))]
    state = replace(state, envoy=replace(envoy, phase=EnvoyPhase.RESTARTING), crashes=recent)
    # The first restart within the window is free: most crashes are single ones and every millisecond is an outage.
    return state, [Spawn()] if len(recent) == 1 else [Wake(now + FIRST_DELAY * 2.0 ** (len(recent) - 2))]


def _failure(how: Exit, crashes: int, policy: Policy) -> str:
    if policy.restarts <= 0:
        return f"Envoy {how.phrase}, and ENVOY_RESTARTS=0 asks to end with it."
    return (
        f"Envoy {how.phrase}; that was crash number {crashes} within {policy.window:g} s, "
        f"more than ENVOY_RESTARTS={policy.restarts} allows."
    )


def _stop(state: State, event: StopAsked, now: float, policy: Policy) -> tuple[State, list[Action]]:
    first = not state.stop_cause
    state = replace(state, stop_cause=state.stop_cause or event.cause or "unknown")
    if not state.alive:
        return replace(state, envoy=replace(state.envoy, phase=EnvoyPhase.STOPPED)), [Finish()]
    state = replace(state, envoy=replace(state.envoy, phase=EnvoyPhase.DRAINING))
    if event.hurry or not event.drain or (first and state.drained):
        return state, [Kill()]
    if not first:
        return state, []
    deadline = now + max(0.0, policy.grace - DEADLINE_MARGIN) if policy.grace > 0 else float("inf")
    wait = policy.minimum_drain if policy.exit_on_zero else policy.drain
    return replace(state, deadline=deadline), [Drain(), Wake(min(deadline, now + wait))]


def _tick(state: State, now: float, policy: Policy) -> tuple[State, list[Action]]:
    if state.envoy.phase is EnvoyPhase.RESTARTING:
        return state, [Spawn()]
    if state.envoy.phase is not EnvoyPhase.DRAINING:
        return state, []
    if policy.exit_on_zero and now < state.deadline:
        return state, [CountConnections()]
    return state, [Kill()]


def _counted(state: State, count: int | None, now: float) -> tuple[State, list[Action]]:
    if state.envoy.phase is not EnvoyPhase.DRAINING:
        return state, []
    failures = state.failures + 1 if count is None else 0
    state = replace(state, failures=failures)
    if failures >= POLL_FAILURES or (count is not None and count <= 0):
        return state, [Kill()]
    return state, [Wake(min(state.deadline, now + POLL_INTERVAL))]
