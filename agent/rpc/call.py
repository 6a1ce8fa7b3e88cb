"""A call as coroutines see it: read a message, write a message, know how it ended. Both ends share it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from agent.rpc import frames
from agent.rpc.connection import Connection
from agent.rpc.inbox import Buffer
from agent.rpc.status import Code, Gone, RpcError
from agent.rpc.stream import Stream
from agent.rpc.transport import Transport


class Call(ABC):
    """One reader and one writer at a time, each its own task if it likes."""

    def __init__(self, transport: Transport, stream: Stream) -> None:
        self._transport = transport
        self._connection: Connection = transport.connection
        self._stream = stream
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        stream.changed = self._changed

    async def read(self) -> bytes | None:
        """The next message; None after the last one. Raises RpcError if the call has failed."""
        message = await self.read_view()
        return message.tobytes() if isinstance(message, memoryview) else message

    async def read_view(self) -> Buffer | None:
        """Like `read`; a long message is a read-only view of memory that goes back to the system with it."""
        stream = self._stream
        while not stream.inbox.messages:
            if stream.end is not None:
                self._over()
                return None
            if stream.remote_closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = stream.inbox.take()
        if not stream.inbox.messages and stream.debt * 2 >= stream.window:
            self._connection.took(stream)
            self._transport.flush()
        return message

    async def write(self, message: Buffer) -> None:
        """Send a message; returns when all of it is on its way, which takes as long as the peer wants it to.

        Raises what `read` would if the call has ended.
        """
        stream = self._stream
        if stream.local_closed or stream.closing is not None or stream.end is not None:
            raise self._failure()
        self._connection.send(stream, message)
        self._transport.push()
        while stream.out_size:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
            if stream.end is not None:
                raise self._failure()

    def _over(self) -> None:
        raise self._failure()

    @abstractmethod
    def _failure(self) -> RpcError:
        """Why nothing can be read or written any more."""

    def _changed(self) -> None:
        stream = self._stream
        reader, writer = self._reader, self._writer
        if reader is not None and not reader.done() and (stream.inbox.messages or stream.remote_closed or stream.end):
            reader.set_result(None)
        if writer is not None and not writer.done() and (not stream.out_size or stream.end):
            writer.set_result(None)


class ClientCall(Call):
    """A call to a server. `read` returns None only after the status OK; every other status is an RpcError."""

    def send_at_once(self, message: Buffer) -> bool:
        """Write what needs no waiting; False if it would have to wait, or the call has ended: `write` is for that."""
        stream = self._stream
        if stream.closing is not None or stream.end is not None:
            return False
        if sent := self._connection.send_at_once(stream, message):
            self._transport.push()
        return sent

    def finish(self) -> None:
        """Say that no more messages will be written."""
        self._connection.close(self._stream, frames.frame(frames.DATA, frames.END_STREAM, self._stream.id))
        self._transport.flush()

    def cancel(self) -> None:
        """End the call; harmless if it has ended."""
        if self._stream.end is None:
            self._connection.reset(self._stream, frames.CANCEL, Code.CANCELLED, "the call was cancelled here")
            self._transport.flush()

    def _over(self) -> None:
        if self._stream.end is not None and self._stream.end[0] is not Code.OK:
            raise self._failure()

    def _failure(self) -> RpcError:
        code, text = self._stream.end or (Code.INTERNAL, "nothing can be written to a finished call")
        if code is Code.OK:
            code, text = Code.CANCELLED, "the server has ended the call"
        return RpcError(code, text, heard=self._connection.heard)


class ServerCall(Call):
    """A call that we serve. `read` returns None when the client has half-closed; Gone says that it has left."""

    def __init__(self, transport: Transport, stream: Stream, block: bytes) -> None:
        super().__init__(transport, stream)
        self._headers: bytes | None = block
        self._slow = False  # a message of `send` has to wait
        self.drained: Callable[[], None] | None = None  # called when what `send` could not send has gone

    @property
    def method(self) -> str:
        return (self._stream.headers or {}).get(b":path", b"").decode("latin-1")

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Of the request; values that came several times are joined by commas."""
        return self._stream.headers or {}

    @property
    def client(self) -> str:
        """Where the client is: its IP address, "" on a unix socket."""
        return self._transport.peer

    @property
    def certificate(self) -> Mapping[str, Any]:
        """What the client has shown and the server has verified, as `ssl.SSLSocket.getpeercert` has it; or nothing."""
        return self._transport.certificate

    @property
    def timeout(self) -> bytes:
        """`grpc-timeout` as it came."""
        return (self._stream.headers or {}).get(b"grpc-timeout", b"")

    @property
    def gone(self) -> bool:
        return self._stream.local_closed

    async def write(self, message: Buffer) -> None:
        if self._headers is not None and not self._stream.local_closed:
            self.accept()
        await super().write(message)

    @property
    def waits(self) -> bool:
        """Not everything that was written has gone: the client, or the connection, is slow."""
        return self._stream.out_size > 0

    def send(self, message: Buffer) -> None:
        """Write without waiting. Look at `waits` before: nothing else bounds what a slow client costs.

        Harmless if the client has left.
        """
        stream = self._stream
        if stream.local_closed or stream.closing is not None or stream.end is not None:
            return
        if self._headers is not None:
            self.accept()
        self._connection.send(stream, message)
        self._slow = stream.out_size > 0
        self._transport.flush()

    def accept(self) -> None:
        """Send the response headers, which otherwise wait for the first message."""
        if self._headers is not None:
            block, self._headers = self._headers, None
            self._connection.respond(self._stream, block)
            self._transport.flush()

    def end(self, block: bytes) -> None:
        """Send trailers after everything that was written; harmless if the client has left."""
        if not self._stream.local_closed:
            head, self._headers = self._headers or b"", None
            self._connection.close(self._stream, self._connection.trailers(self._stream, head + block))
            self._transport.flush()

    def _failure(self) -> RpcError:
        if self._stream.end is None or self._stream.local_closed:
            return Gone((self._stream.end or (None, "the client has left"))[1])
        return RpcError(*self._stream.end)

    def _changed(self) -> None:
        super()._changed()
        if self._slow and not self._stream.out_size:
            self._slow = False
            if self.drained is not None and not self._stream.local_closed:
                self.drained()
