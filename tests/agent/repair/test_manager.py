"""The guard over rules in memory: what wakes it, what it says, what it leaves alone."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from agent.config import GuardConfig, GuardMode
from agent.errors import AttemptError
from agent.events import Event, Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState
from agent.repair import manager
from agent.repair.manager import RedirectGuard
from agent.repair.rules import Findings

GONE = Findings(("jump missing",))


@dataclass
class MemoryRules:
    """Rules that a test can break."""

    now: Findings = field(default_factory=Findings)
    mends: bool = True
    unreadable: str = ""
    looks: int = 0
    repairs: int = 0
    inbound_port: int = 15006
    probe_port: int = 15002
    proxy_uids: tuple[range, ...] = (range(1337, 1338),)
    looked: threading.Event = field(default_factory=threading.Event)

    def look(self) -> Findings:
        self.looks += 1
        self.looked.set()
        if self.unreadable:
            raise AttemptError("verify", self.unreadable)
        return self.now

    def repair(self) -> None:
        self.repairs += 1
        if not self.mends:
            raise AttemptError("repair", "iptables-restore failed")
        self.now = Findings()


class World:
    def __init__(self, mode: GuardMode, period: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(manager, "may_administer", lambda: True)
        monkeypatch.setattr(manager, "Notifications", self._no_notifications)
        monkeypatch.setattr(manager, "RETRY", 0.01)
        self.rules = MemoryRules()
        self.envoy = Latest(EnvoyState(EnvoyPhase.RUNNING, pid=1))
        self.recorder = Recorder()
        self.guard = RedirectGuard(GuardConfig(mode, (), period), {}, self.envoy, self.recorder, self.rules)

    @staticmethod
    def _no_notifications() -> None:
        raise PermissionError(1, "Operation not permitted")

    def play(self, script: Callable[["World"], Awaitable[None]]) -> list[Event]:
        async def run() -> None:
            await self.guard.start()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self.guard.run())
                try:
                    async with asyncio.timeout(20):
                        await script(self)
                finally:
                    task.cancel()

        asyncio.run(run())
        return self.recorder.events()

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            await asyncio.sleep(0.002)

    async def said(self, kind: str, times: int = 1) -> None:
        await self.until(lambda: [e.kind for e in self.recorder.events()].count(kind) >= times)


def test_an_envoy_crash_is_followed_by_a_look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.APPLY, 3600.0, monkeypatch)

    async def script(world: World) -> None:
        await world.until(lambda: world.rules.looks == 1)
        world.rules.now = GONE
        world.envoy.set(EnvoyState(EnvoyPhase.RESTARTING, crashes=1))
        await world.said("rules-repaired")

    missing, repaired = world.play(script)
    assert (missing.kind, missing.message) == ("rules-missing", "The redirect rules are not as planned: jump missing.")
    assert repaired.component == "rules"
    assert float(repaired.fields["ms"]) >= 0
    assert "were repaired and verified" in repaired.message
    assert world.rules.repairs == 1


def test_a_restart_that_was_no_crash_is_no_reason_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.APPLY, 3600.0, monkeypatch)

    async def script(world: World) -> None:
        await world.until(lambda: world.rules.looks == 1)
        world.envoy.set(EnvoyState(EnvoyPhase.DRAINING, pid=1))
        await asyncio.sleep(0.1)

    assert world.play(script) == []
    assert world.rules.looks == 1


def test_every_period(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.APPLY, 0.05, monkeypatch)

    async def script(world: World) -> None:
        for i in range(3):
            world.rules.now = GONE
            await world.said("rules-repaired", i + 1)

    assert [e.kind for e in world.play(script)] == ["rules-missing", "rules-repaired"] * 3


def test_detecting_leaves_the_rules_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.DETECT, 0.02, monkeypatch)

    async def script(world: World) -> None:
        world.rules.now = GONE
        await world.said("rules-missing")
        await world.until(lambda: world.rules.looks > 3)
        world.rules.now = Findings()
        await world.said("rules-repaired")

    missing, back = world.play(script)
    assert missing.fields["differences"] == 1
    assert "are as planned again" in back.message
    assert world.rules.repairs == 0


def test_off_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.OFF, 0.01, monkeypatch)

    async def script(_: World) -> None:
        await asyncio.sleep(0.05)

    world.play(script)
    assert world.rules.looks == 0


def test_a_repair_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.APPLY, 3600.0, monkeypatch)
    world.rules.now, world.rules.mends = GONE, False

    async def script(world: World) -> None:
        await world.said("repair-failed", 2)
        world.rules.mends = True
        await world.said("rules-repaired")

    kinds = [e.kind for e in world.play(script)]
    assert kinds[:2] == ["rules-missing", "repair-failed"]
    assert kinds.count("rules-missing") == 1


def test_somebody_who_always_removes_them_is_named_a_fight(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.APPLY, 0.01, monkeypatch)

    async def script(world: World) -> None:
        while "rules-fight" not in [e.kind for e in world.recorder.events()]:
            world.rules.now = GONE
            await asyncio.sleep(0.01)

    events = world.play(script)
    [fight] = [e for e in events if e.kind == "rules-fight"]
    assert "again and again (4 repairs)" in fight.message


def test_rules_that_cannot_be_read_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.APPLY, 0.01, monkeypatch)
    world.rules.unreadable = "iptables-save failed"

    async def script(world: World) -> None:
        await world.until(lambda: world.rules.looks > 3)
        world.rules.unreadable = ""
        world.rules.now = GONE
        await world.said("rules-repaired")

    assert [e.kind for e in world.play(script)] == ["rules-unreadable", "rules-missing", "rules-repaired"]


def test_rules_of_others_are_mentioned_once_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(GuardMode.APPLY, 0.01, monkeypatch)
    world.rules.now = Findings(others=("IPv4 nat OUTPUT: an ACCEPT is ahead of our jump",))

    async def script(world: World) -> None:
        await world.until(lambda: world.rules.looks > 3)

    assert [e.kind for e in world.play(script)] == ["rules-foreign"]
    assert world.rules.repairs == 0
