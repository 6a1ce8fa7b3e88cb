"""Keeps one Envoy alive until it shall end: performs what lifecycle.py decides."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from agent import logs
from agent.config import EnvoyConfig
from agent.envoy import cgroup, lifecycle, stats
from agent.envoy.admin import Admin
from agent.envoy.exits import Exit, after_push
from agent.envoy.launch import Envoy
from agent.envoy.lifecycle import Action, Connections, Drained, Ended, Event, Policy, Started, State, StopAsked, Tick
from agent.envoy.stop import StopSignal
from agent.errors import AttemptError, FatalError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState
from agent.record import replace

log = logs.scope("default")

DRAIN_TIMEOUT = 5.0  # seconds for Envoy's answer to the drain call
POLL_TIMEOUT = 2.0  # seconds for one look at the connection count
KILL_TIMEOUT = 10.0  # seconds until a killed process that is not gone is left to the kernel


class Supervisor:
    """The one owner of the Envoy process. `spawn` starts one and may raise FatalError."""

    def __init__(
        self,
        config: EnvoyConfig,
        spawn: Callable[[], Envoy],
        state: Latest[EnvoyState],
        recorder: Recorder,
        termination_log: str = "",
        last_push: Callable[[], tuple[float, str, str] | None] = lambda: None,
    ) -> None:
        self._config, self._spawn, self._published, self._recorder = config, spawn, state, recorder
        self._termination_log = termination_log  # where Kubernetes looks for the cause of an end; must exist already
        self._last_push = last_push  # the last configuration sent to Envoy: monotonic time, type URL, version
        self._policy = Policy.of(config)
        self._admin = Admin(config.admin_host, config.admin_port)
        self._state = State(envoy=state.value)
        self._envoy: Envoy | None = None
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._oom_kills: int | None = None
        self._ended_at: float | None = None  # monotonic, of the exit that is being repaired
        self._result: lifecycle.Finish | None = None

    def adopt(self, envoy: Envoy) -> None:
        """Take over the Envoy that was started before the event loop existed; call it before `run`."""
        self._envoy = envoy
        self._oom_kills = cgroup.oom_kills()
        self._apply(Started(envoy.pid))

    async def run(self, stop: StopSignal) -> int:
        """Supervise until the end was asked for or Envoy is given up; Envoy is gone when this returns or raises.

        Returns the exit status of the agent; raises FatalError (one sentence) when the restart budget is spent.
        """
        try:
            if self._envoy is None:
                self._start()
            else:
                self._await_exit()
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch(stop), name="envoy-stop")
                while self._result is None:
                    self._perform(self._apply(await self._queue.get()), group)
                watcher.cancel()
        finally:
            self._end_now()
        if not self._result.failure:
            return 0
        self._explain(self._result.failure)
        raise FatalError(self._result.failure)

    async def drain(self) -> None:
        """What the preStop hook asks for: drain for good, now; a later request to end then kills at once."""
        if self._envoy is None:
            return
        await self._drain_call(skip_exit=True)
        self._queue.put_nowait(Drained())

    # ---------------------------------------------------------------------------------------------- events in

    async def _watch(self, stop: StopSignal) -> None:
        async for wish in stop.latest.watch():
            if wish:
                self._queue.put_nowait(StopAsked(wish.cause, wish.drain, wish.hurry))

    def _await_exit(self) -> None:
        assert self._envoy is not None
        asyncio.get_running_loop().add_reader(self._envoy.pidfd, self._on_exit)

    def _on_exit(self) -> None:
        """The pidfd became readable: collect the status before anything else is done."""
        envoy, self._envoy = self._envoy, None
        assert envoy is not None
        asyncio.get_running_loop().remove_reader(envoy.pidfd)
        self._ended_at = time.monotonic()
        status = envoy.reap()
        before, after = self._oom_kills, cgroup.oom_kills()
        oom = before is not None and after is not None and after > before
        lived = self._ended_at - envoy.started
        suspect = ""
        push = self._last_push()
        if push is not None and push[0] >= envoy.started and status not in (0, -signal.SIGKILL):
            suspect = after_push(self._ended_at - push[0], push[1], push[2])
        how = Exit(status, oom, suspect=suspect)
        asked = bool(self._state.stop_cause) or how.clean
        phrase = "was ended as asked" if self._state.stop_cause and status == -signal.SIGKILL else how.phrase
        self._recorder.record(
            "envoy",
            "ended" if asked else "crashed",
            f"Envoy {phrase} after {lived:.1f} s.",
            level=logging.INFO if asked else logging.ERROR,
            pid=envoy.pid,
            status=status,
            kind_of_exit=how.kind,
            after_new_configuration=bool(suspect),
            lived_ms=round(lived * 1000),
        )
        self._queue.put_nowait(Ended(how))

    # ---------------------------------------------------------------------------------------------- actions out

    def _apply(self, event: Event) -> list[Action]:
        self._state, actions = lifecycle.step(self._state, event, time.monotonic(), self._policy)
        if self._state.envoy != self._published.value:
            self._published.set(self._state.envoy)
        return actions

    def _perform(self, actions: list[Action], group: asyncio.TaskGroup) -> None:
        for action in actions:
            match action:
                case lifecycle.Spawn():
                    self._start()
                case lifecycle.Wake(at):
                    self._wake(at)
                case lifecycle.Drain():
                    group.create_task(self._drain_call(skip_exit=False), name="envoy-drain")
                case lifecycle.CountConnections():
                    group.create_task(self._count(), name="envoy-count")
                case lifecycle.Kill():
                    if self._envoy is not None:
                        self._envoy.kill()
                case lifecycle.Finish():
                    self._result = action

    def _start(self) -> None:
        self._oom_kills = cgroup.oom_kills()
        try:
            self._envoy = self._spawn()
        except FatalError as error:
            if self._state.envoy.crashes == 0:
                raise  # the first start: nothing suggests that another attempt would help
            self._queue.put_nowait(Ended(Exit(-1, error=str(error).rstrip("."))))
            return
        self._await_exit()
        self._apply(Started(self._envoy.pid))
        if self._ended_at is not None:
            ms = round((time.monotonic() - self._ended_at) * 1000, 1)
            self._recorder.record(
                "envoy",
                "restarted",
                f"Envoy was restarted in place {ms:g} ms after its end (restart {self._state.envoy.restarts}).",
                pid=self._envoy.pid,
                ms=ms,
                restarts=self._state.envoy.restarts,
            )

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, at - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, Tick())

    async def _drain_call(self, *, skip_exit: bool) -> None:
        words = ["inboundonly"] if self._config.inbound_only_drain else []
        words += ["graceful", "skip_exit"] if skip_exit else ["graceful"]
        try:
            answer = await self._admin.post("/drain_listeners?" + "&".join(words), DRAIN_TIMEOUT)
        except AttemptError as error:
            self._recorder.record(
                "envoy", "drain-failed", f"Envoy was not told to drain: {error}", level=logging.WARNING
            )
            return
        self._recorder.record("envoy", "draining", "Envoy drains its listeners.", status=answer.status)

    async def _count(self) -> None:
        try:
            answer = await self._admin.get(stats.CONNECTIONS_QUERY, POLL_TIMEOUT)
            ignored = (self._config.status_port, self._config.stats_port)
            count = stats.open_connections(answer.text, ignored) if answer.status == 200 else None
        except AttemptError as error:
            log.warning("Envoy did not say how many connections are open: %s", error)
            count = None
        self._queue.put_nowait(Connections(count))

    # ---------------------------------------------------------------------------------------------- the end

    def _end_now(self) -> None:
        """Envoy never outlives this component, whatever ended it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._envoy is None:
            return
        envoy, self._envoy = self._envoy, None
        asyncio.get_running_loop().remove_reader(envoy.pidfd)
        self._published.set(replace(self._state.envoy, phase=EnvoyPhase.STOPPED, pid=None))
        envoy.kill()
        try:
            envoy.reap(KILL_TIMEOUT)
        except TimeoutError as error:
            log.error("Envoy was killed and is still there: %s", error)
            envoy.close()

    def _explain(self, sentence: str) -> None:
        self._recorder.record("envoy", "given-up", sentence, level=logging.ERROR)
        if self._termination_log:
            # Only a file that Kubernetes has put there: it is never created.
            with suppress(OSError), open(self._termination_log, "r+", encoding="utf-8") as file:
                file.truncate()
                file.write(sentence + "\n")
