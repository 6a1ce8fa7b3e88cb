"""One Envoy stream at work: frames move between Envoy, the session core and the control plane until one side ends."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import grpc.aio

from agent import logs
from agent.config import XdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.xds.ending import AGENT, ENVOY, Ending
from agent.xds.session import Announcement, Apply, Dropped, Refused, Session, ToEnvoy, ToPlane
from agent.xds.upstream import Outbox, Upstream
from agent.xds.wire import EnvelopeError, Flavour

log = logs.scope("xdsproxy")

Handler = Callable[[bytes], None]


class Envoy(Protocol):
    """What is used of a grpc.aio.ServicerContext; frames are bytes, `read` gives grpc.aio.EOF at the end."""

    async def read(self) -> Any: ...
    async def write(self, message: bytes) -> None: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...


# What reading from or writing to an Envoy that has gone raises, if it comes before our cancellation.
_GONE = (grpc.aio.BaseError, asyncio.InvalidStateError)

SLOW_SEND = 10.0  # seconds after which a send that Envoy does not take is worth a line


@contextmanager
def _no_cycle() -> Iterator[None]:
    """Free at once what a cancelled TaskGroup held: until Python 3.13 its frames and its exception refer to each other,
    and the connections in their variables would stay open until the garbage collector comes by.
    """
    try:
        yield
    except asyncio.CancelledError as e:
        traceback.clear_frames(e.__traceback__)
        raise


class Stream:
    """`run` relays until the control plane ends, Envoy ends or `end` is called; its result is Envoy's status."""

    def __init__(
        self,
        flavour: Flavour,
        config: XdsConfig,
        handlers: Mapping[str, Handler],
        announcements: Latest[tuple[Announcement, ...]],
        recorder: Recorder,
        connected: Callable[[str], None],
        relayed: Callable[[int], None],
    ) -> None:
        self._handlers = handlers
        self._announcements = announcements
        self._recorder = recorder
        self._relayed = relayed
        self._session = Session(flavour, tuple(handlers))
        self._outbox = Outbox()
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._config = config
        self._flavour = flavour
        self._connected = connected

    def end(self, ending: Ending) -> None:
        """The first ending counts."""
        if not self._ended.done():
            self._ended.set_result(ending)

    async def run(self, envoy: Envoy) -> Ending:
        upstream = Upstream(
            self._config.plane,
            self._config.dial_timeout,
            self._flavour,
            self._outbox,
            lambda frame: self._deliver(envoy, frame),
            self._connected,
        )
        with _no_cycle():
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._converse(upstream), name="xds upstream"),
                    group.create_task(self._announce(), name="xds announcements"),
                    group.create_task(self._requests(envoy), name="xds requests from Envoy"),
                ]
                try:
                    return await self._ended
                finally:
                    for task in tasks:
                        task.cancel()

    async def _converse(self, upstream: Upstream) -> None:
        with _no_cycle():
            self.end(await upstream.run())

    async def _requests(self, envoy: Envoy) -> None:
        """Never waits for the control plane."""
        try:
            while (frame := await envoy.read()) is not grpc.aio.EOF:
                self._relayed(len(frame))
                for action in self._session.request(frame):
                    if isinstance(action, ToPlane):
                        self._outbox.put(action.frame)
                    else:
                        self._report(action)
                del frame, action
        except _GONE:
            self.end(Ending("CANCELLED", by=ENVOY))
        except EnvelopeError:
            self.end(Ending("INVALID_ARGUMENT", "Envoy sent bytes that are not a discovery request", by=AGENT))
        self.end(Ending(by=ENVOY))

    def _report(self, refused: Refused) -> None:
        self._recorder.record(
            "xds",
            "nack",
            f"Envoy refused a configuration of type {refused.type_url}: {refused.error}",
            level=logging.WARNING,
            type=refused.type_url,
        )

    async def _deliver(self, envoy: Envoy, frame: bytes) -> None:
        self._relayed(len(frame))
        action = self._session.response(frame)
        if isinstance(action, ToEnvoy):
            size, type_url = len(frame), action.type_url
            slow = asyncio.get_running_loop().call_later(
                SLOW_SEND, log.warning, "Envoy has not taken a response of %d bytes (%s) for 10 s", size, type_url
            )
            try:
                await envoy.write(frame)
            except _GONE:
                self.end(Ending("CANCELLED", by=ENVOY))
            finally:
                slow.cancel()
        elif isinstance(action, Apply):
            self._outbox.put(self._apply(action).frame)
        else:
            self._drop(action)

    def _apply(self, action: Apply) -> ToPlane:
        """Let the owner have it; the result is the ACK or the NACK."""
        error = action.mismatch
        if not error:
            try:
                self._handlers[action.head.type_url](action.value)
            except ValueError as e:
                error = str(e) or "refused"
        if error:
            self._recorder.record(
                "xds",
                "refused",
                f"refused a response of the control plane: {error}",
                level=logging.WARNING,
                type=action.head.type_url,
            )
        return self._session.applied(action, error or None)

    def _drop(self, dropped: Dropped) -> None:
        if dropped.expected:
            log.debug("ignored an empty response of type %s", dropped.type_url)
        else:
            log.error("dropped a response of type %s, which nobody here asked for", dropped.type_url or "(none)")

    async def _announce(self) -> None:
        """Tell the control plane what is new, as long as the stream lasts; the session knows when."""
        said: tuple[Announcement, ...] = ()
        async for announcements in self._announcements.watch():
            for announcement in announcements:
                if announcement not in said:
                    for action in self._session.announce(announcement):
                        self._outbox.put(action.frame)
            said = announcements
