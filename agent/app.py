"""Composition root: builds every component, starts them, runs them in one TaskGroup whose body is Envoy's supervisor.

The nesting is the shutdown order: while Envoy drains it can still fetch secrets, reach the control plane and resolve
names; only when it is gone for good are the services cancelled.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from agent import logs
from agent.boot import Boot
from agent.config import AgentConfig, GuardMode, HealthConfig
from agent.envoy.stop import StopSignal
from agent.errors import FatalError, RemoraError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState, NameInfo, Readiness, Secret, XdsStatus

if TYPE_CHECKING:
    from concurrent.futures import Future

    from agent.dns.server import DnsServer
    from agent.envoy.supervisor import Supervisor
    from agent.identity.fetcher import MachineToken
    from agent.identity.manager import IdentityManager
    from agent.sds.server import SdsServer
    from agent.status.metrics import Registry
    from agent.xds.proxy import XdsProxy
    from agent.xds.session import Announcement

log = logs.scope("default")

HURRIED = 0.0005  # seconds that an import may keep Envoy's first streams waiting for the interpreter
TERMINATION_LOG = "/dev/termination-log"


class Component(Protocol):
    """A service: `start` binds and may fail, `run` serves until it is cancelled and cleans up behind itself."""

    async def start(self) -> None: ...
    async def run(self) -> None: ...


def serve(booted: Boot, began: float) -> int:
    """Run the event loop until Envoy is gone for good; returns the status. `began`: monotonic time of the start."""
    app = App(booted, began)
    try:
        return asyncio.run(app.run())
    except BaseExceptionGroup as group:
        app.recorder.write("a fatal error")
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
    """One agent. Components are imported and started one by one, in the order in which Envoy misses them."""

    def __init__(self, booted: Boot, began: float) -> None:
        self.booted, self.began = booted, began
        self.config: AgentConfig = booted.config
        self.recorder = Recorder()
        self.stop = StopSignal()
        self.secret: Latest[Secret | None] = Latest(None)
        self.bundle: Latest[tuple[str, ...]] = Latest(())
        self.identity_ready = Latest(Readiness(True))
        self.envoy = Latest(EnvoyState(EnvoyPhase.STOPPED))
        self.xds_status = Latest(XdsStatus())
        self.names: Latest[Mapping[str, NameInfo] | None] = Latest(None)
        self.services_up = asyncio.Event()
        self.announcements: Latest[tuple[Announcement, ...]] = Latest(())
        self.envoy_ready: Callable[[], Awaitable[Readiness]] | None = None
        self.xds: XdsProxy | None = None
        self.dns: DnsServer | None = None
        self.identity: IdentityManager | None = None
        self.sds: SdsServer | None = None
        self.registry: Registry | None = None
        self.supervisor: Supervisor | None = None
        self.gates: list[Callable[[], Awaitable[Readiness]]] = [self.stop.readiness]

    def parts(self) -> Iterator[str | tuple[str, Component]]:
        """Every component of this configuration, with its name. A module's name before it: what it needs imported."""
        config = self.config
        yield "xds", self._xds()
        self._take_signals()  # not earlier: what asyncio imports for it takes longer than the first service
        key: Future[bytes] | None = None
        if config.identity is not None:
            from agent.identity import keys

            # Not earlier: two threads that import hold each other up by more than the key gains from its head start.
            key = keys.pregenerate(config.identity)
        if config.envoy.enabled:
            yield "agent.sds.server"
            from agent.sds.server import SdsServer

            self.sds = SdsServer(config.sds, self.secret, self.recorder, self.booted.sds_socket, self.bundle)
            yield "sds", self.sds
        if config.envoy.enabled:
            yield "agent.envoy.readiness"
            yield "agent.envoy.supervisor"
            self._supervise()
        if config.identity is not None:
            self.gates.append(self._identity_gate)
        if config.proxyless.bootstrap:
            self.gates.append(self._proxyless_gate)
        if config.dns.enabled:
            yield "agent.dns.server"
            from agent.dns.server import DnsServer

            self.gates.append(self._names_gate)
            self.dns = DnsServer(config.dns, self.names, self.recorder)
            yield "dns", self.dns
        if self.booted.status_socket is not None:
            yield "agent.status.server"
            from agent import pages

            self.registry = pages.registry(self)
            yield "status", pages.server(self, self.registry, self.booted.status_socket)
        if config.sds.output_dir:
            yield "agent.sds.outputs"
            from agent.sds.outputs import Outputs

            yield "outputs", Outputs(config.sds, self.secret, self.recorder, self.bundle)
        machine = self._machine()
        if machine is not None:
            yield "token", machine
        if config.identity is not None:
            yield "agent.identity.manager"
            from agent import certmetrics
            from agent.identity.manager import IdentityManager

            self.identity = IdentityManager(
                config.identity, self.secret, self.identity_ready, self.recorder, key, machine
            )
            self.identity.update_trust(self.bundle.value)  # which may have come before
            if self.registry is not None:
                certmetrics.identity(self.registry, self.identity)
            yield "identity", self.identity
        if config.health is not None:
            yield "health", self._health(config.health)
        if os.getpid() == 1:
            from agent.orphans import Reaper

            yield "orphans", Reaper(lambda: self.envoy.value.pid)
        if config.guard.mode is not GuardMode.OFF:
            yield "agent.repair.manager"
            from agent.repair.manager import RedirectGuard

            yield "guard", RedirectGuard(config.guard, config.environ, self.envoy, self.recorder)

    def _xds(self) -> Component:
        from agent.xds import wire
        from agent.xds.proxy import XdsProxy

        handlers = {wire.NAME_TABLE: self._take_names, wire.TRUST_BUNDLE: self._take_trust}
        self.xds = XdsProxy(
            self.config.xds,
            self.xds_status,
            handlers,
            self.recorder,
            self.announcements,
            self.services_up,
            self.booted.xds_socket,
            self._own_pair,
        )
        return self.xds

    def _own_pair(self) -> tuple[bytes, bytes] | None:
        secret = self.secret.value
        return None if secret is None or secret.not_after <= time.time() else (secret.key, secret.chain)

    def _machine(self) -> "MachineToken | None":
        if self.config.machine_token is None:
            return None
        from agent.identity.fetcher import MachineToken

        return MachineToken(self.config.machine_token)

    def _health(self, config: HealthConfig) -> Component:
        from agent.health.monitor import HealthMonitor
        from agent.xds import wire
        from agent.xds.session import Announcement

        def report(error: str) -> None:
            self.announcements.set((Announcement(wire.HEALTH, error or None),))

        return HealthMonitor(config, report, self.envoy_ready, self.config.environ, self.recorder)

    def _last_push(self) -> tuple[float, str, str] | None:
        """The last configuration that was sent to Envoy: monotonic time, type, version."""
        types = self.xds.ledger.types.items() if self.xds is not None else ()
        sent = [(one.pushed, name, one.version) for name, one in types if one.pushed is not None and "/envoy." in name]
        return max(sent, default=None)

    def _take_names(self, payload: bytes) -> None:
        from agent.dns import table

        self.names.set(table.decode(payload))

    def _take_trust(self, payload: bytes) -> None:
        from agent.xds import wire

        if (bundle := wire.trust_bundle(payload)) == self.bundle.value:
            return
        self.bundle.set(bundle)
        if self.identity is not None:
            self.identity.update_trust(bundle)

    def _supervise(self) -> None:
        from agent.envoy.readiness import EnvoyReadiness
        from agent.envoy.supervisor import Supervisor

        self.supervisor = Supervisor(
            self.config.envoy,
            self.booted.spawn,
            self.envoy,
            self.recorder,
            termination_log=TERMINATION_LOG,
            last_push=self._last_push,
        )
        if self.booted.envoy is not None:
            self.supervisor.adopt(self.booted.envoy)
            pid = self.booted.envoy.pid
            self.recorder.record("envoy", "started", f"Envoy runs as process {pid}.", pid=pid)
        self.envoy_ready = readiness = EnvoyReadiness(self.config.envoy, self.envoy)

        async def gate() -> Readiness:
            answer = await readiness()
            link = self.xds_status.value
            if answer.ready and link.stale:
                return Readiness(True, "the control plane is away and Envoy has the configuration it accepted last")
            if answer.ready or link.connected or not link.error:
                return answer
            return Readiness(False, f"{answer.reason} (control plane: {link.error})")

        self.gates.append(gate)

    async def _identity_gate(self) -> Readiness:
        return self.identity_ready.value

    async def _proxyless_gate(self) -> Readiness:
        from agent import proxyless

        return proxyless.readiness(self.config.proxyless.bootstrap)

    async def _names_gate(self) -> Readiness:
        ready = self.names.value is not None
        return Readiness(ready, "" if ready else "no name table has been received from the control plane yet")

    async def drain(self) -> None:
        if self.supervisor is not None:
            await self.supervisor.drain()

    def quit(self) -> None:
        self.stop.quit("/quitquitquit was called")

    async def run(self) -> int:
        """Start everything, supervise Envoy until it is gone for good; returns the exit status."""
        settled = sys.getswitchinterval()
        sys.setswitchinterval(HURRIED)
        async with asyncio.TaskGroup() as group:
            services: list[asyncio.Task[None]] = []
            try:
                for part in self.parts():
                    if isinstance(part, str):
                        # Beside the loop: Envoy's first streams shall not wait for the imports of everything else.
                        await asyncio.to_thread(import_module, part)
                        continue
                    name, component = part
                    await component.start()
                    services.append(group.create_task(self._serve(name, component), name=name))
                    await asyncio.sleep(0)
                sys.setswitchinterval(settled)
                self._started()
                status = await self._body()
            finally:
                for service in services:
                    service.cancel()
        self.recorder.record("agent", "ended", f"The agent ends: {self.stop.cause or 'Envoy is gone'}.", status=status)
        return status

    def _started(self) -> None:
        self.services_up.set()
        ms = round((time.monotonic() - self.began) * 1000)
        self.recorder.record("agent", "started", "The agent serves.", ms=ms, node=self.config.node.id)
        # What was imported stays for ever: keep the collector from walking through it again and again.
        gc.freeze()
        gc.enable()

    async def _body(self) -> int:
        if self.supervisor is None:
            await self.stop.wait()
            return 0
        self.booted.envoy = None  # the supervisor's from here on
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
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            loop.add_signal_handler(number, self._on_signal, number)
        for caught in self.booted.signals.caught:
            self._on_signal(caught)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGUSR1:
            self.recorder.write("SIGUSR1")
            return
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.stop.requested and sys.stdin is not None and sys.stdin.isatty():
            # A person presses Ctrl-C again; from kubelets and scripts a repeated signal changes nothing, as with istio.
            self.stop.hurry()
            return
        if not self.stop.requested:
            self.recorder.record("agent", "stopping", f"The agent was asked to end by {name}.", level=logging.INFO)
        self.stop.request(name)
