"""Composition root: builds every component, starts them, runs them in one TaskGroup whose body is Envoy's supervisor.

The nesting is the shutdown order: while Envoy drains it can still fetch secrets, reach the control plane and resolve
names; only when it is gone for good are the services cancelled.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from agent import logs
from agent.boot import Boot
from agent.config import AgentConfig, GuardMode
from agent.envoy.readiness import EnvoyReadiness
from agent.envoy.stop import StopSignal
from agent.envoy.supervisor import Supervisor
from agent.errors import FatalError, RemoraError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState, NameInfo, Readiness, Secret, XdsStatus
from agent.sds.server import SdsServer
from agent.xds.proxy import XdsProxy

log = logs.scope("default")

NAME_TABLE = "type.googleapis.com/istio.networking.nds.v1.NameTable"
TERMINATION_LOG = "/dev/termination-log"


class Component(Protocol):
    """A service: `start` binds and may fail, `run` serves until it is cancelled and cleans up behind itself."""

    async def start(self) -> None: ...
    async def run(self) -> None: ...


def serve(booted: Boot, began: float) -> int:
    """Run the event loop until Envoy is gone for good; returns the status. `began`: monotonic time of the start."""
    try:
        return asyncio.run(App(booted, began).run())
    except BaseExceptionGroup as group:
        raise sentence(group) from group


def sentence(group: BaseExceptionGroup) -> BaseException:
    """The one error that tells the user why: ours if there is one, else the first, named."""
    flat: list[BaseException] = []
    todo: list[BaseException] = [group]
    while todo:
        error = todo.pop(0)
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)
        else:
            flat.append(error)
    for error in flat:
        if isinstance(error, RemoraError):
            return error
    log.debug("unexpected error", exc_info=flat[0])
    return FatalError(f"unexpected error, please report it: {type(flat[0]).__name__}: {flat[0]}")


class App:
    def __init__(self, booted: Boot, began: float) -> None:
        self.booted, self.began = booted, began
        self.config: AgentConfig = booted.config
        self.recorder = Recorder()
        self.stop = StopSignal()
        self.secret: Latest[Secret | None] = Latest(None)
        self.identity_ready = Latest(Readiness(True))
        self.envoy = Latest(EnvoyState(EnvoyPhase.STOPPED))
        self.xds_status = Latest(XdsStatus())
        self.names: Latest[Mapping[str, NameInfo] | None] = Latest(None)
        self.supervisor: Supervisor | None = None
        self.components: dict[str, Component] = {}
        self.gates: list[Callable[[], Awaitable[Readiness]]] = []
        self._build()

    def _build(self) -> None:
        """Every component, in the order in which Envoy will miss them."""
        config = self.config
        handlers: dict[str, Callable[[bytes], None]] = {}
        if config.dns.enabled:
            from agent.dns import table
            from agent.dns.server import DnsServer

            handlers[NAME_TABLE] = lambda payload: self.names.set(table.decode(payload))
        self.components["xds"] = XdsProxy(config.xds, self.xds_status, handlers, self.recorder)
        if config.envoy.enabled:
            self.components["sds"] = SdsServer(config.sds, self.secret, self.recorder)
            self.supervisor = Supervisor(
                config.envoy, self.booted.spawn, self.envoy, self.recorder, termination_log=TERMINATION_LOG
            )
            self.gates.append(EnvoyReadiness(config.envoy, self.envoy))
        if config.identity is not None:
            from agent.identity.manager import IdentityManager

            self.components["identity"] = IdentityManager(
                config.identity, self.secret, self.identity_ready, self.recorder, self.booted.key
            )
            self.gates.append(self._identity_gate)
        if config.dns.enabled:
            dns = DnsServer(config.dns, self.names, self.recorder)
            self.components["dns"] = dns
            self.gates.append(self._names_gate)
        if self.booted.status_socket is not None:
            from agent.status.server import StatusServer

            self.components["status"] = StatusServer(
                config.status, self.booted.status_socket, [self.stop.readiness, *self.gates], self.drain, self.quit
            )
        if config.guard.mode is not GuardMode.OFF:
            from agent.repair.manager import RedirectGuard

            self.components["guard"] = RedirectGuard(config.guard, config.environ, self.envoy, self.recorder)

    async def _identity_gate(self) -> Readiness:
        return self.identity_ready.value

    async def _names_gate(self) -> Readiness:
        ready = self.names.value is not None
        return Readiness(ready, "" if ready else "no name table has been received from the control plane yet")

    async def drain(self) -> None:
        if self.supervisor is not None:
            await self.supervisor.drain()

    def quit(self) -> None:
        self.stop.quit("/quitquitquit was called")

    async def run(self) -> int:
        self._take_signals()
        for component in self.components.values():
            await component.start()
        self.recorder.record(
            "agent",
            "started",
            "The agent serves.",
            ms=round((time.monotonic() - self.began) * 1000),
            node=self.config.node.id,
        )
        # What was imported stays for ever: keep the collector from walking through it again and again.
        gc.freeze()
        gc.enable()
        async with asyncio.TaskGroup() as group:
            services = [
                group.create_task(self._serve(name, component), name=name)
                for name, component in self.components.items()
            ]
            try:
                status = await self._body()
            finally:
                for service in services:
                    service.cancel()
        self.recorder.record("agent", "ended", f"The agent ends: {self.stop.cause or 'Envoy is gone'}.", status=status)
        return status

    async def _body(self) -> int:
        if self.supervisor is None:
            await self.stop.wait()
            return 0
        if self.booted.envoy is not None:
            self.supervisor.adopt(self.booted.envoy)
            self.booted.envoy = None
        return await self.supervisor.run(self.stop)

    async def _serve(self, name: str, component: Component) -> None:
        """One service; its death is the agent's, with a sentence that names it."""
        try:
            await component.run()
        except RemoraError:
            raise
        except Exception as error:
            log.debug("%s failed", name, exc_info=True)
            raise FatalError(f"the {name} service failed: {type(error).__name__}: {error}") from error

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        for number in self.booted.signals.caught:
            self._on_signal(number)

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.stop.requested:
            self.stop.hurry()
            return
        if not self.stop.requested:
            self.recorder.record("agent", "stopping", f"The agent was asked to end by {name}.", level=logging.INFO)
        self.stop.request(name)
