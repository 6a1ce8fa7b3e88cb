"""The XDS socket: Envoy's discovery streams relayed to the control plane, a new connection for each."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from agent import logs
from agent.config import XdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.model import XdsStatus
from agent.record import replace
from agent.rpc.call import ServerCall
from agent.rpc.sending import Limits
from agent.rpc.server import Server, reflecting
from agent.rpc.status import Code, RpcError
from agent.xds import wire
from agent.xds.dial import Dialler
from agent.xds.ending import AGENT, ENVOY, Ending, Kind
from agent.xds.heap import HeapTrimmer, tune
from agent.xds.keeper import CacheReport, Keeper
from agent.xds.ledger import Ledger
from agent.xds.report import report
from agent.xds.session import Announcement
from agent.xds.stream import Common, Handler, Stream
from agent.xds.wire import Flavour

log = logs.scope("xdsproxy")

KEEPALIVE = (30.0, 10.0)
MOST_ASKED = 256 << 20  # bytes of a request: an Envoy that comes back names all that it has, but not as much as that
# Of a stalled agent Envoy may send so much; what it sends is small but for its first requests.
LIMITS = Limits(window=1 << 20, message=MOST_ASKED)


class XdsProxy:
    """Serves ADS on the unix socket. `handlers` take the types that the agent subscribes to itself; ValueError refuses.

    `announcements`: what to tell the control plane on every stream after the subscriptions, and again when it changes.
    `listener`: the socket, if it exists already.
    `owners` is set once the handlers' owners are at work; until then nothing is handed to them, nor acknowledged.
    """

    def __init__(
        self,
        config: XdsConfig,
        status: Latest[XdsStatus],
        handlers: Mapping[str, Handler],
        recorder: Recorder,
        announcements: Latest[tuple[Announcement, ...]] | None = None,
        owners: asyncio.Event | None = None,
        listener: socket.socket | None = None,
        own: Callable[[], tuple[bytes, bytes] | None] = lambda: None,
    ) -> None:
        wanted = ((wire.NAME_TABLE, config.subscribe_names), (wire.TRUST_BUNDLE, config.subscribe_trust))
        self._handlers = {type_url: handlers[type_url] for type_url, on in wanted if on}
        self._config = config
        self._listener = listener
        self._status = status
        self._recorder = recorder
        self._announcements = announcements or Latest(())
        self._keeper = Keeper(config.cache, status, recorder)
        self._trimmer = HeapTrimmer()
        self._dialler = Dialler(config.plane, own)
        self.ledger = Ledger()
        self._common = Common(
            config,
            self._handlers,
            self._announcements,
            recorder,
            self._dialler,
            self.ledger,
            self._trimmer.note,
            owners or _already(),
            self._keeper if config.cache.enabled else None,
        )
        self._current: Stream | None = None
        self._reported = ""  # the last failure that was recorded; an outage is one event, not one a second
        self._server: Server | None = None

    async def start(self) -> None:
        """Bind the socket, unless that has been done. Raises FatalError."""
        tune()
        streams = {flavour.value: partial(self.serve, flavour) for flavour in Flavour}
        server = Server({**streams, **reflecting(_describe)}, LIMITS, KEEPALIVE)
        if self._listener is None:
            server.bind(self._config.socket_path)
        else:
            server.adopt(self._listener)
        self._restore(self._keeper.start())
        self._server = server

    def _restore(self, names: bytes | None) -> None:
        """Let the DNS server have the name table of an earlier run; the control plane's own replaces it."""
        take = self._handlers.get(wire.NAME_TABLE)
        if names is not None and take is not None:
            try:
                take(names)
            except ValueError as e:
                log.warning("the saved name table is ignored: %s", e)

    def cache(self) -> CacheReport:
        """What is kept for an outage, in numbers."""
        return self._keeper.report()

    def report(self) -> str:
        """Everything about the discovery streams, as JSON for people."""
        found = report(
            self._status.value,
            self.ledger,
            self.cache(),
            self._keeper.cache.types(),
            self._dialler.standings(),
            asyncio.get_running_loop().time(),
        )
        return json.dumps(found)

    async def run(self) -> None:
        """Serve until cancelled. `start` comes first."""
        if self._server is None:
            raise RuntimeError("start() has not been called")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._trimmer.run(), name="xds trimmer")
            group.create_task(self._keeper.run(), name="xds cache")
            await self._server.run()

    async def serve(self, flavour: Flavour, envoy: ServerCall) -> None:
        """One stream of Envoy's, from its first byte to its status. The stream before it, if any, ends well."""
        stream = Stream(
            flavour,
            self._common,
            connected=lambda address: self._connected(stream, address),
            unreached=lambda ending: self._unreached(stream, ending),
        )
        if self._current:
            self._current.end(Ending(by=AGENT))
        self._current = stream
        self._status.set(replace(self._status.value, connected=False, streams=self._status.value.streams + 1))
        ending = Ending("CANCELLED", by=ENVOY)
        try:
            ending = await stream.run(envoy)
        except ExceptionGroup as e:
            ending = Ending("INTERNAL", "the agent failed to relay the stream", by=AGENT)
            log.error("the relay of a stream failed: %r", _leaf(e), exc_info=e)
        finally:
            self._ended(stream, ending)
        if ending.code != "OK":
            raise RpcError(Code[ending.code], ending.message)

    def _connected(self, stream: Stream, address: str) -> None:
        if stream is self._current:
            self._reported = ""
            self._status.set(replace(self._status.value, connected=True, endpoint=address, error=""))
            self._recorder.record("xds", "connected", f"the control plane {address} answered", endpoint=address)

    def _unreached(self, stream: Stream, ending: Ending) -> None:
        """No endpoint is of use, and the stream waits for one."""
        self.ledger.failures += 1
        if stream is self._current:
            self._status.set(replace(self._status.value, error=str(ending)))
            self._say(ending)

    def _ended(self, stream: Stream, ending: Ending) -> None:
        self.ledger.ended(ending)
        if stream is not self._current:
            log.debug("a replaced stream has ended")
            return
        self._current = None
        was_connected = self._status.value.connected
        phrase = "" if ending.kind is Kind.GRACEFUL else str(ending)
        self._status.set(replace(self._status.value, connected=False, error=phrase))
        if was_connected:
            self._reported = ""
        self._say(ending)

    def _say(self, ending: Ending) -> None:
        """One event for an outage, not one a second."""
        phrase = "" if ending.kind is Kind.GRACEFUL else str(ending)
        if phrase and phrase == self._reported:
            log.debug("again: %s", ending)
            return
        self._reported = phrase
        level = logging.WARNING if ending.kind is Kind.ERROR else logging.INFO
        self._recorder.record("xds", "disconnected", str(ending), level=level, code=ending.code)


def _already() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def _leaf(error: Exception) -> Exception:
    """The first real error in a group of groups."""
    return _leaf(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _describe() -> tuple[Any, Any]:
    """What people's tools are told of the streams, whose messages are relayed as bytes."""
    from agent.protos import xds_pb2

    streams = {
        Flavour.SOTW.value: ("remora.xds.Request", "remora.xds.Response"),
        Flavour.DELTA.value: ("remora.xds.DeltaRequest", "remora.xds.DeltaResponse"),
    }
    return streams, [xds_pb2.DESCRIPTOR]
