"""Keeps the redirect rules as planned: looks after every Envoy crash, every change in nftables and every period."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress

from agent import logs
from agent.config import GuardConfig, GuardMode
from agent.errors import AttemptError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState
from agent.repair import decision
from agent.repair.decision import Fight, LookAgain, Repair, Report, Restored, State
from agent.repair.probe import Capture, probe
from agent.repair.rules import Findings, PlannedRules, Rules
from agent.repair.watch import Notifications, may_administer

log = logs.scope("default")

GONE = "connections of the proxy to 127.0.0.6 are refused, so the rules are gone"
RETRY = 1.0  # seconds until another try after a repair that did not help
SHOWN = 3  # differences named in one message
SETTLE = 0.02  # seconds at least between two looks: a storm of foreign changes must not keep the processor busy


class RedirectGuard:
    """REDIRECT_GUARD. Without CAP_NET_ADMIN it can only find out that the rules are gone, by connecting.

    ConfigError: the init arguments (REDIRECT_ARGS) are wrong.
    """

    def __init__(
        self,
        config: GuardConfig,
        environ: Mapping[str, str],
        envoy: Latest[EnvoyState],
        recorder: Recorder,
        rules: Rules | None = None,
    ) -> None:
        self._config, self._envoy, self._recorder = config, envoy, recorder
        self._rules: Rules = rules or PlannedRules(config.init_args, environ)
        self._state = State()
        self._wake = asyncio.Event()
        self._noticed = 0.0  # monotonic, of the sign that woke the guard
        self._administers = False
        self._others: tuple[str, ...] = ()
        self._unreadable = ""  # the last reason why the rules could not be read, so that it is said once

    async def start(self) -> None:
        self._administers = may_administer()
        if not self._administers and self._config.mode is GuardMode.APPLY:
            log.warning("REDIRECT_GUARD=apply needs CAP_NET_ADMIN, which this process lacks: drift is only reported")

    async def run(self) -> None:
        """Guard until cancelled; the rules stay as they are."""
        if self._config.mode is GuardMode.OFF:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_crashes(), name="guard-crashes")
            if self._administers:
                await self._keep()
            elif any(os.geteuid() in uids for uids in self._rules.proxy_uids):
                await self._probe_forever()
            else:
                log.warning("The redirect rules are not guarded: that takes CAP_NET_ADMIN or the proxy's user id")

    # ---------------------------------------------------------------------------------------------- with NET_ADMIN

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            notifications = Notifications()
        except OSError as error:
            log.warning("No notice of rule changes (%s): they are looked at every %g s", error, self._config.period)
            await self._look_forever()
            return

        def changed() -> None:
            notifications.drain()
            self._look_soon()

        loop.add_reader(notifications, changed)
        try:
            await self._look_forever()
        finally:
            loop.remove_reader(notifications)
            notifications.close()

    async def _look_forever(self) -> None:
        while True:
            noticed, self._noticed = self._noticed or time.monotonic(), 0.0
            self._wake.clear()
            due = await self._look(noticed)
            await asyncio.sleep(SETTLE)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._wake.wait()

    async def _look(self, noticed: float) -> float:
        """Verify, repair where that is asked for, verify again; returns when to look next."""
        due = time.monotonic() + self._config.period
        for last in (False, True):
            if (found := await self._read()) is None:
                return due
            self._tell_others(found.others)
            now = time.monotonic()
            may_repair = self._config.mode is GuardMode.APPLY
            self._state, actions = decision.verified(self._state, found.harmful, noticed, now, may_repair=may_repair)
            for action in actions:
                self._tell(action)
                if isinstance(action, LookAgain):
                    due = min(due, action.at)
            if Repair() not in actions:
                return due
            if last:
                break
            await self._repair()
        # The repair did not help. Another one right away would not either, and the log would fill.
        return min(due, max(self._state.not_before, time.monotonic() + RETRY))

    async def _read(self) -> Findings | None:
        """What differs from the plan; None when nobody can say."""
        try:
            found = await asyncio.to_thread(self._rules.look)
        except AttemptError as error:
            if str(error) != self._unreadable:
                self._recorder.record(
                    "rules", "rules-unreadable", f"The rules cannot be verified: {error}", level=logging.WARNING
                )
            self._unreadable = str(error)
            return None
        self._unreadable = ""
        return found

    async def _repair(self) -> None:
        try:
            await asyncio.to_thread(self._rules.repair)
        except AttemptError as error:
            self._recorder.record(
                "rules", "repair-failed", f"The redirect rules were not repaired: {error}", level=logging.ERROR
            )
        self._state, actions = decision.repaired(self._state, time.monotonic())
        for action in actions:
            self._tell(action)

    def _tell_others(self, others: tuple[str, ...]) -> None:
        """Rules of others are theirs to remove; people should know once."""
        if others and others != self._others:
            self._recorder.record(
                "rules", "rules-foreign", f"Other rules can defeat ours: {'; '.join(others)}.", level=logging.WARNING
            )
        self._others = others

    def _tell(self, action: decision.Action) -> None:
        match action:
            case Report(differences):
                shown = "; ".join(differences[:SHOWN])
                more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
                self._recorder.record(
                    "rules",
                    "rules-missing",
                    f"The redirect rules are not as planned: {shown}{more}.",
                    level=logging.WARNING,
                    differences=len(differences),
                )
            case Fight(repeats, at):
                self._recorder.record(
                    "rules",
                    "rules-fight",
                    f"Something removes the redirect rules again and again ({repeats + 1} repairs); the next repair "
                    f"waits {at - time.monotonic():.0f} s.",
                    level=logging.WARNING,
                    repeats=repeats,
                )
            case Restored(seconds, by_us):
                ms = round(seconds * 1000, 1)
                what = "were repaired and verified" if by_us else "are as planned again"
                self._recorder.record("rules", "rules-repaired", f"The redirect rules {what} after {ms:g} ms.", ms=ms)

    # ---------------------------------------------------------------------------------------------- without

    async def _probe_forever(self) -> None:
        """Only the proxy's own connections to 127.0.0.6 tell, so this works as the proxy's user alone."""
        while True:
            noticed, self._noticed = self._noticed or time.monotonic(), 0.0
            self._wake.clear()
            # While Envoy is away a refusal means nothing.
            if self._envoy.value.phase is EnvoyPhase.RUNNING:
                capture = await probe(self._rules.probe_port, self._rules.inbound_port)
                if capture is not Capture.UNKNOWN:
                    found = () if capture is Capture.IN_PLACE else (GONE,)
                    self._state, actions = decision.verified(
                        self._state, found, noticed, time.monotonic(), may_repair=False
                    )
                    for action in actions:
                        self._tell(action)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.period):
                    await self._wake.wait()

    # ---------------------------------------------------------------------------------------------- both

    def _look_soon(self) -> None:
        if not self._wake.is_set():
            self._noticed = time.monotonic()
            self._wake.set()

    async def _watch_crashes(self) -> None:
        seen = self._envoy.value.crashes
        async for state in self._envoy.watch():
            if state.crashes != seen:
                seen = state.crashes
                self._look_soon()
