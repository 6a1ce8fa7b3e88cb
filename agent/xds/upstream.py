"""The control plane's side of one Envoy stream: a connection of its own, addresses in turn, frames both ways."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from agent import logs, peer
from agent.config import PeerConfig
from agent.errors import AttemptError
from agent.xds.ending import AGENT, Ending
from agent.xds.wire import EnvelopeError, Flavour

log = logs.scope("xdsproxy")


class Outbox:
    """Frames on their way up: unbounded, because a reader of Envoy that waits for the control plane can deadlock with a
    control plane that waits for Envoy. Frames are kept until somebody answered, so that another address can have them.
    """

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._unanswered: list[bytes] | None = []
        self._filled = asyncio.Event()

    def put(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self._filled.set()

    async def get(self) -> bytes:
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        frame = self._waiting.popleft()
        if self._unanswered is not None:
            self._unanswered.append(frame)
        return frame

    def settle(self) -> None:
        """The control plane answered: nothing will have to be repeated."""
        self._unanswered = None

    def rewind(self) -> None:
        """Nobody answered: everything taken since the start comes again."""
        if self._unanswered:
            self._waiting.extendleft(reversed(self._unanswered))
            self._unanswered.clear()
            self._filled.set()

    def keep_first(self) -> None:
        """Whatever comes back needs no more than the first frame to show that it answers."""
        self.rewind()
        while len(self._waiting) > 1:
            self._waiting.pop()

    def __len__(self) -> int:
        return len(self._waiting)


class Upstream:
    """One conversation with the control plane; `deliver` takes each response and is waited for before the next."""

    def __init__(
        self,
        plane: PeerConfig,
        dial_timeout: float,
        flavour: Flavour,
        outbox: Outbox,
        deliver: Callable[[bytes], Awaitable[None]],
        connected: Callable[[str], None],
    ) -> None:
        self._plane = plane
        self._dial_timeout = dial_timeout
        self._flavour = flavour
        self._outbox = outbox
        self._deliver = deliver
        self._connected = connected
        self._answered = False

    async def run(self) -> Ending:
        """Talk to the first address that answers until it ends; UNAVAILABLE before an answer leads to the next one."""
        ending = _unreachable("no address is configured")
        for address in self._plane.addresses:
            ending = await self._attempt(address)
            if self._answered or ending.code != "UNAVAILABLE":
                break
            log.debug("%s did not answer (%s), trying the next address", address, ending)
            self._outbox.rewind()
        return ending

    async def _attempt(self, address: str) -> Ending:
        try:
            channel = await peer.open_channel(self._plane, address)
        except AttemptError as e:
            return _unreachable(str(e))
        try:
            return await self._converse(channel, address)
        finally:
            await channel.close()

    async def _converse(self, channel: grpc.aio.Channel, address: str) -> Ending:
        call = channel.stream_stream(self._flavour.value)(metadata=tuple(peer.metadata(self._plane)))
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(call, address), name=f"xds responses from {address}")
            writer = group.create_task(self._write(call), name=f"xds requests to {address}")
            try:
                # Waiting for the channel to be ready would delay every stream. A look at the end of the budget costs
                # nothing and tells a connection that hangs from a control plane that has nothing to say.
                await asyncio.wait({reader}, timeout=self._dial_timeout)
                if not (reader.done() or self._answered) and channel.get_state() is not grpc.ChannelConnectivity.READY:
                    return _unreachable(f"{address} took no connection within {self._dial_timeout:g} s")
                ending = await reader
            finally:
                reader.cancel()
                writer.cancel()
                call.cancel()
        if ending.never_connected:
            return _unreachable(peer.explain(self._plane, address, ending.message))
        return ending

    async def _read(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", address: str) -> Ending:
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                if not self._answered:
                    self._answered = True
                    self._outbox.settle()
                    self._connected(address)
                await self._deliver(frame)
                # Not to be held while waiting for the next one, which may take hours.
                del frame
        except grpc.aio.AioRpcError as e:
            return Ending(e.code().name, e.details() or "")
        except EnvelopeError:
            return Ending("INTERNAL", f"{address} sent bytes that are not a discovery response", by=AGENT)
        return Ending()

    async def _write(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]") -> None:
        try:
            await call.wait_for_connection()
            # Not call.write(): when the stream ends under a write, that replaces the peer's status by INTERNAL (grpcio
            # 1.85, grpc/aio/_call.py), and Envoy would never know why the control plane hung up.
            send = call._cython_call.send_serialized_message
            while True:
                await send(await self._outbox.get())
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as e:
            # The reader learns how the call ended and says so.
            log.debug("no more requests can be sent: %s", e)


def _unreachable(reason: str) -> Ending:
    return Ending("UNAVAILABLE", f"the control plane cannot be reached: {reason}", by=AGENT)
