"""One Envoy stream at work: frames move between Envoy, the session core and the control plane until one side ends."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from agent import logs
from agent.config import XdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.record import record
from agent.rpc.status import Gone, RpcError
from agent.xds.dial import Dialler
from agent.xds.ending import AGENT, ENVOY, Ending
from agent.xds.keeper import Keeper
from agent.xds.ledger import Ledger
from agent.xds.outbox import Outbox
from agent.xds.session import Announcement, Apply, Dropped, Refused, Session, ToEnvoy, ToPlane
from agent.xds.slices import asked
from agent.xds.standin import StandIn
from agent.xds.tracker import Tracker
from agent.xds.upstream import Upstream
from agent.xds.wire import NAME_TABLE, EnvelopeError, Flavour, Frame, Head

log = logs.scope("xdsproxy")

Handler = Callable[[bytes], None]


class Envoy(Protocol):
    """What is used of a call that is served (agent.rpc.call.ServerCall)."""

    async def read(self) -> bytes | None: ...
    async def write(self, message: Frame) -> None: ...


SLOW_SEND = 10.0  # seconds after which a send that Envoy does not take is worth a line
MOST_WAITING = 64 << 20  # bytes of requests that a control plane may leave untaken


@record
class Common:
    """What all streams of one agent share."""

    config: XdsConfig
    handlers: Mapping[str, Handler]
    announcements: Latest[tuple[Announcement, ...]]
    recorder: Recorder
    dialler: Dialler
    ledger: Ledger
    relayed: Callable[[int], None]  # bytes that passed
    owners: asyncio.Event  # set once those whom our own types are for are at work
    keeper: Keeper | None = None


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
        common: Common,
        connected: Callable[[str], None],
        unreached: Callable[[Ending], None],
    ) -> None:
        self._handlers = common.handlers
        self._announcements = common.announcements
        self._recorder = common.recorder
        self._relayed = common.relayed
        self._ledger = common.ledger
        self._dialler = common.dialler
        self._owners = common.owners
        self._early: list[Apply] = []  # what came for owners that are not at work yet
        self._session = Session(flavour, tuple(common.handlers))
        self._outbox = Outbox()
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._config = common.config
        self._flavour = flavour
        self._connected = connected
        self._unreached = unreached
        self._keeper = common.keeper
        self._tracker: Tracker | None = common.keeper.tracker(flavour) if common.keeper else None
        self._standin: StandIn | None = None
        self._live = False  # the control plane has answered
        self._sending: tuple[float, int] | None = None  # since when Envoy has not taken how many bytes
        self._reminder: asyncio.TimerHandle | None = None
        self._clock = asyncio.get_running_loop().time

    def end(self, ending: Ending) -> None:
        """The first ending counts."""
        if not self._ended.done():
            self._ended.set_result(ending)

    async def run(self, envoy: Envoy) -> Ending:
        upstream = Upstream(
            self._config,
            self._dialler,
            self._flavour,
            self._outbox,
            lambda frame: self._deliver(envoy, frame),
            self._on_connected,
        )
        with _no_cycle():
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._converse(upstream), name="xds upstream"),
                    group.create_task(self._announce(), name="xds announcements"),
                    group.create_task(self._requests(envoy), name="xds requests from Envoy"),
                ]
                if not self._owners.is_set():
                    tasks.append(group.create_task(self._hand_over(), name="xds early types of our own"))
                if self._keeper:
                    self._standin = StandIn(self._keeper, self._flavour, lambda frame: self._send(envoy, frame))
                    tasks.append(group.create_task(self._standin.run(), name="xds responses from the cache"))
                    tasks.append(group.create_task(self._lose_patience(self._keeper.after), name="xds patience"))
                try:
                    return await self._ended
                finally:
                    for task in tasks:
                        task.cancel()
                    if self._reminder:
                        self._reminder.cancel()
                    if self._keeper and self._tracker:
                        self._keeper.ended(self._tracker)

    async def _converse(self, upstream: Upstream) -> None:
        """Until the control plane has answered and ended. While nobody can be reached it is dialled again for Envoy,
        whose own retries are slower: for a while, or for as long as the cache stands in for it. A connection that was
        made and broke is Envoy's to know: it dials again at once.
        """
        with _no_cycle():
            patience = self._clock() + self._config.hold
            while True:
                ending = await upstream.run()
                if self._live:
                    self.end(ending)
                    return
                if ending.unreached:
                    self._unreached(ending)
                pause = self._dialler.pause()
                waits = ending.unreached and self._clock() + pause < patience
                if not (self._stand_in(str(ending)) or waits):
                    self.end(ending)
                    return
                self._outbox.rewind()
                await asyncio.sleep(pause)

    async def _lose_patience(self, after: float) -> None:
        await asyncio.sleep(after)
        if not self._live:
            self._stand_in(f"the control plane has not answered for {after:g} s")

    def _stand_in(self, cause: str) -> bool:
        """Let the cache answer Envoy from now on; False if it cannot."""
        if self._standin is None or not self._standin.begin(cause):
            return False
        if self._standin.committed:
            self._outbox.keep_first()
        return True

    def _on_connected(self, address: str) -> None:
        if not self._standing_in:
            self._connected(address)

    @property
    def _standing_in(self) -> bool:
        """Whether Envoy has resources from the cache that the control plane does not know of."""
        return self._standin is not None and self._standin.committed

    def _goes_live(self) -> bool:
        """The control plane answers. What it does not know Envoy to hold it would never withdraw: Envoy has to tell it,
        which it does at the start of a stream, and so its stream ends. Envoy keeps everything meanwhile.
        """
        if self._standing_in:
            self.end(Ending(message="The control plane answers again: Envoy is sent to it.", by=AGENT))
            return False
        self._live = True
        if self._standin and self._keeper and self._tracker:
            self._standin.over()
            self._keeper.live(self._tracker)
        return True

    async def _requests(self, envoy: Envoy) -> None:
        """Never waits for the control plane."""
        try:
            while (frame := await envoy.read()) is not None:
                self._relayed(len(frame))
                for action in self._session.request(frame):
                    if isinstance(action, Refused):
                        self._report(action)
                        continue
                    if action.head:
                        self._ledger.requested(action.head, len(frame), self._clock())
                    if not self._standing_in:
                        self._send_up(action)
                self._observe(frame)
                del frame, action
        except Gone:
            self.end(Ending("CANCELLED", by=ENVOY))
        except RpcError as e:
            self.end(Ending(e.code.name, f"Envoy sent {e.message}", by=AGENT))
        except EnvelopeError:
            self.end(Ending("INVALID_ARGUMENT", "Envoy sent bytes that are not a discovery request", by=AGENT))
        self.end(Ending(by=ENVOY))

    def _send_up(self, action: ToPlane) -> None:
        """Never waits; a control plane that takes nothing costs its stream, not the memory."""
        self._outbox.put(action.frame)
        if action.head is None:
            self._ledger.own_request(len(action.frame))
        if self._outbox.size > MOST_WAITING:
            waiting = self._outbox.size >> 20
            self.end(Ending("UNAVAILABLE", f"the control plane has left {waiting} MiB of requests untaken", by=AGENT))

    def _observe(self, frame: bytes) -> None:
        """Let the cache see what Envoy asks, accepts and refuses."""
        if self._keeper is None or self._tracker is None or self._standin is None:
            return
        if self._keeper.cache.off:
            self._keeper.noticed()
            return
        try:
            request = asked(self._flavour, frame)
        except EnvelopeError as e:  # the control plane's to judge
            log.debug("the cache does not understand a request: %s", e)
            return
        committed = self._standin.committed
        self._relayed(self._tracker.request(request))  # memory moves again: the response goes, its slices stay
        self._standin.request(request)
        if self._standin.committed and not committed:
            self._outbox.keep_first()
        if request.nonce:
            self._keeper.noticed()

    def _report(self, refused: Refused) -> None:
        self._recorder.record(
            "xds",
            "nack",
            f"Envoy refused a configuration of type {refused.type_url}: {refused.error}",
            level=logging.WARNING,
            type=refused.type_url,
        )

    async def _deliver(self, envoy: Envoy, frame: Frame) -> None:
        size = len(frame)
        self._relayed(size)
        if not (self._live or self._goes_live()):
            return
        action = self._session.response(frame)
        if isinstance(action, ToEnvoy):
            self._ledger.responded(action.head, size, self._clock())
            if self._tracker:
                self._tracker.response(action.head, frame)
            await self._send(envoy, frame)
        elif isinstance(action, Apply):
            self._ledger.responded(action.head, size, self._clock())
            if self._early or not self._owners.is_set():
                self._early.append(action)
            else:
                self._send_up(self._apply(action))
        else:
            self._ledger.responded(Head(action.type_url), size, self._clock())
            self._drop(action)

    async def _send(self, envoy: Envoy, frame: Frame) -> None:
        self._sending = (self._clock(), len(frame))
        if self._reminder is None:  # one at a time, not one for every frame
            self._reminder = asyncio.get_running_loop().call_later(SLOW_SEND, self._remind)
        try:
            await envoy.write(frame)
        except RpcError:
            self.end(Ending("CANCELLED", by=ENVOY))
        finally:
            self._sending = None

    def _remind(self) -> None:
        """Say so when Envoy does not take what it is sent."""
        self._reminder = None
        if self._sending:
            since, size = self._sending
            left = since + SLOW_SEND - self._clock()
            if left <= 0:
                log.warning("Envoy has not taken a response of %d bytes for %d s", size, SLOW_SEND - left)
                left = SLOW_SEND
            self._reminder = asyncio.get_running_loop().call_later(left, self._remind)

    async def _hand_over(self) -> None:
        """What is accepted must have been taken: nothing for owners who do not exist yet, and Envoy does not wait."""
        await self._owners.wait()
        early, self._early = self._early, []
        for action in early:
            self._send_up(self._apply(action))

    def _apply(self, action: Apply) -> ToPlane:
        """Let the owner have it; the result is the ACK or the NACK."""
        error = action.mismatch
        if not error:
            try:
                self._handlers[action.head.type_url](action.value)
                if self._keeper and action.head.type_url == NAME_TABLE:
                    self._keeper.took_names(action.value)
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
                        self._send_up(action)
            said = announcements
