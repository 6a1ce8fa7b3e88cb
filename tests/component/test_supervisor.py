"""The supervisor with real processes: crash, restart, give-up and every way to end."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.envoy.launch import Envoy
from agent.envoy.stop import StopSignal
from agent.envoy.supervisor import Supervisor
from agent.errors import FatalError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState
from tests.fakes.envoy import FakeEnvoy, alive


class World:
    """A supervisor over a fake Envoy. `script` runs beside it and gets the world."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.fake = FakeEnvoy(folder, **config)
        self.state = Latest(EnvoyState(EnvoyPhase.STOPPED))
        self.seen: list[EnvoyState] = []
        self.recorder = Recorder()
        self.stop = StopSignal()
        self.spawn: Callable[[], Envoy] = self.fake.spawn
        self.supervisor: Supervisor
        self.last_push: tuple[float, str, str] | None = None
        self.termination_log = str(folder / "termination-log")

    def play(self, script: Callable[["World"], Awaitable[None]], *, adopt: bool = True) -> int:
        async def watch() -> None:
            async for state in self.state.watch():
                self.seen.append(state)

        async def run() -> int:
            self.supervisor = Supervisor(
                self.fake.config,
                lambda: self.spawn(),
                self.state,
                self.recorder,
                self.termination_log,
                lambda: self.last_push,
            )
            if adopt:
                self.supervisor.adopt(self.fake.spawn())
            async with asyncio.TaskGroup() as group:
                helpers = [group.create_task(watch()), group.create_task(self._checked(script))]
                try:
                    return await self.supervisor.run(self.stop)
                finally:
                    for helper in helpers:
                        helper.cancel()

        try:
            with self.fake:
                return asyncio.run(run())
        except BaseExceptionGroup as group:
            fatal, _ = group.split(FatalError)
            if fatal is None:
                raise
            [error] = fatal.exceptions
            raise error from None
        finally:
            assert not any(alive(pid) for pid in self.fake.starts()), "Envoy outlived its supervisor"

    async def _checked(self, script: Callable[["World"], Awaitable[None]]) -> None:
        async with asyncio.timeout(30):
            await script(self)

    async def running(self, starts: int = 1) -> int:
        """Wait until the fake has been started that often and serves; returns its pid."""
        while len(self.fake.starts()) < starts:
            await asyncio.sleep(0.005)
        return self.fake.starts()[-1]

    async def order(self, what: str) -> None:
        await asyncio.to_thread(self.fake.order, what)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.recorder.events() if event.component == "envoy"]


async def drained(world: World) -> None:
    while not world.fake.drains():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("adopt", [True, False])
def test_termination_drains_then_kills(tmp_path: Path, adopt: bool) -> None:
    world = World(tmp_path, termination_drain_duration=0.5)
    times: list[float] = []

    async def script(world: World) -> None:
        pid = await world.running()
        times.append(asyncio.get_running_loop().time())
        world.stop.request("SIGTERM")
        await drained(world)
        assert alive(pid)
        assert world.state.value.phase is EnvoyPhase.DRAINING
        await asyncio.sleep(60)

    assert world.play(script, adopt=adopt) == 0
    assert world.fake.drains() == ["POST /drain_listeners?inboundonly&graceful"]
    assert world.state.value.phase is EnvoyPhase.STOPPED
    assert world.kinds() == ["draining", "ended"]


def test_gateways_drain_every_listener(tmp_path: Path) -> None:
    world = World(tmp_path, inbound_only_drain=False)

    async def script(world: World) -> None:
        await world.running()
        world.stop.request("SIGTERM")

    assert world.play(script) == 0
    assert world.fake.drains() == ["POST /drain_listeners?graceful"]


@pytest.mark.parametrize("order", ["signal/9", "signal/11", "exit/1", "signal/6"])
def test_a_crash_is_repaired_in_place(tmp_path: Path, order: str) -> None:
    world = World(tmp_path)

    async def script(world: World) -> None:
        first = await world.running()
        await world.order(order)
        second = await world.running(2)
        assert second != first
        assert world.state.value == replace(
            world.state.value, phase=EnvoyPhase.RUNNING, pid=second, crashes=1, restarts=1
        )
        world.stop.quit("test")

    assert world.play(script) == 0
    assert world.kinds() == ["crashed", "restarted", "ended"]
    crashed, restarted, _ = world.recorder.events()
    assert crashed.fields["lived_ms"] > 0
    assert 0 < float(restarted.fields["ms"]) < 10_000


@pytest.mark.parametrize(("order", "blamed"), [("signal/11", True), ("exit/1", True), ("signal/9", False)])
def test_a_crash_right_after_new_configuration_names_it(tmp_path: Path, order: str, blamed: bool) -> None:
    async def script(world: World) -> None:
        await world.running()
        world.last_push = (time.monotonic(), "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "v7")
        await world.order(order)
        await world.running(2)
        world.stop.quit("the test is over")

    world = World(tmp_path)
    assert world.play(script) == 0
    [crash] = [e for e in world.recorder.events() if e.kind == "crashed"]
    assert crash.fields["after_new_configuration"] is blamed
    assert ("sent new configuration (RouteConfiguration, version v7)" in crash.message) is blamed


def test_readers_see_that_envoy_is_down_before_the_next_one_is_up(tmp_path: Path) -> None:
    world = World(tmp_path)
    down: list[EnvoyState] = []

    def spawn() -> Envoy:
        down.append(world.state.value)
        return world.fake.spawn()

    world.spawn = spawn

    async def script(world: World) -> None:
        await world.running()
        await world.order("signal/11")
        await world.running(2)
        world.stop.quit("test")

    world.play(script)
    [state] = down
    assert (state.phase, state.pid, state.crashes) == (EnvoyPhase.RESTARTING, None, 1)
    assert state.last_exit == "was killed by SIGSEGV"


def test_a_spent_budget_ends_the_agent_with_the_cause(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=2)
    (tmp_path / "termination-log").write_text("old")

    async def script(world: World) -> None:
        for i in range(3):
            await world.running(i + 1)
            await world.order("exit/7")
        await asyncio.sleep(60)

    with pytest.raises(FatalError, match=r"Envoy exited with status 7; that was crash number 3 within 60 s") as caught:
        world.play(script)
    assert caught.value.exit_code == 1
    assert world.state.value.phase is EnvoyPhase.GIVEN_UP
    assert world.kinds() == ["crashed", "restarted", "crashed", "restarted", "crashed", "given-up"]
    assert (tmp_path / "termination-log").read_text() == f"{caught.value}\n"


def test_no_budget_means_ending_with_envoy(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=0)

    async def script(world: World) -> None:
        await world.running()
        await world.order("signal/9")
        await asyncio.sleep(60)

    with pytest.raises(FatalError, match="ENVOY_RESTARTS=0"):
        world.play(script)
    assert not (tmp_path / "termination-log").exists(), "it is Kubernetes that makes this file"


def test_an_exit_that_somebody_asked_envoy_for_is_a_success(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def script(world: World) -> None:
        await world.running()
        await world.order("exit/0")
        await asyncio.sleep(60)

    assert world.play(script) == 0
    assert world.kinds() == ["ended"]


def test_an_envoy_that_ends_while_draining_ends_the_wait(tmp_path: Path) -> None:
    world = World(tmp_path, termination_drain_duration=600.0)

    async def script(world: World) -> None:
        await world.running()
        world.stop.request("SIGTERM")
        await drained(world)
        await world.order("exit/1")
        await asyncio.sleep(60)

    assert world.play(script) == 0
    assert world.state.value.crashes == 0


def test_quitting_does_not_drain(tmp_path: Path) -> None:
    world = World(tmp_path, termination_drain_duration=600.0)

    async def script(world: World) -> None:
        await world.running()
        world.stop.quit("/quitquitquit")
        await asyncio.sleep(60)

    assert world.play(script) == 0
    assert world.fake.drains() == []


def test_the_drain_hook_and_then_termination(tmp_path: Path) -> None:
    world = World(tmp_path, termination_drain_duration=600.0)

    async def script(world: World) -> None:
        pid = await world.running()
        await world.supervisor.drain()
        assert world.fake.drains() == ["POST /drain_listeners?inboundonly&graceful&skip_exit"]
        assert alive(pid)
        assert world.state.value.phase is EnvoyPhase.RUNNING
        world.stop.request("SIGTERM")
        await asyncio.sleep(60)

    assert world.play(script) == 0
    assert len(world.fake.drains()) == 1


def test_a_second_wish_only_hurries_when_it_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, termination_drain_duration=600.0)

    async def script(world: World) -> None:
        pid = await world.running()
        world.stop.request("SIGTERM")
        await drained(world)
        world.stop.request("SIGTERM")
        await asyncio.sleep(0.05)
        assert alive(pid)
        world.stop.hurry()
        await asyncio.sleep(60)

    assert world.play(script) == 0
    assert len(world.fake.drains()) == 1


def test_a_deaf_envoy_does_not_hold_up_the_end(tmp_path: Path) -> None:
    world = World(tmp_path, termination_drain_duration=0.3)

    async def script(world: World) -> None:
        await world.running()
        await world.order("deaf")
        world.stop.request("SIGTERM")
        await asyncio.sleep(60)

    assert world.play(script) == 0


def test_waiting_for_the_last_connection(tmp_path: Path) -> None:
    world = World(tmp_path, exit_on_zero_connections=True, termination_drain_duration=600.0)
    world.fake.set_stats("listener.0.0.0.0_8080.downstream_cx_active: 2\n")

    def looks() -> list[str]:
        return [line for line in world.fake.requests() if "downstream_cx_active" in line]

    async def script(world: World) -> None:
        pid = await world.running()
        world.stop.request("SIGTERM")
        while len(looks()) < 2:
            await asyncio.sleep(0.01)
        assert alive(pid)
        world.fake.set_stats("listener.0.0.0.0_8080.downstream_cx_active: 0\n")
        await asyncio.sleep(60)

    assert world.play(script) == 0
    assert looks()[0] == "GET /stats?usedonly&filter=downstream_cx_active$"


def test_a_cancelled_supervisor_leaves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)

    class Failed(Exception):
        pass

    async def script(world: World) -> None:
        await world.running()
        raise Failed

    with pytest.raises(BaseExceptionGroup) as caught:
        world.play(script)
    assert caught.group_contains(Failed, depth=1)


def test_a_first_start_that_fails_is_final(tmp_path: Path) -> None:
    world = World(tmp_path, binary=str(tmp_path / "missing"))

    async def script(_: World) -> None:
        await asyncio.sleep(60)

    with pytest.raises(FatalError, match="there is no such file"):
        world.play(script, adopt=False)


def test_a_restart_that_fails_is_tried_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    failures = 2

    def spawn() -> Envoy:
        nonlocal failures
        if failures:
            failures -= 1
            raise FatalError("Envoy was not started: no room.")
        return world.fake.spawn()

    world.spawn = spawn

    async def script(world: World) -> None:
        await world.running()
        await world.order("signal/11")
        await world.running(2)
        assert world.state.value.crashes == 3
        world.stop.request("SIGTERM")

    assert world.play(script) == 0


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    test_a_crash_is_repaired_in_place(tmp_path, "signal/9")
    assert len(os.listdir("/proc/self/fd")) == before
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
