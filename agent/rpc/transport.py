"""An HTTP/2 connection on a non-blocking socket: read when there is something, write what there is, notice the dead."""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from agent.rpc.connection import Connection
from agent.rpc.inbox import Buffer
from agent.rpc.sending import QUEUE

RECORD = 16 << 10  # bytes of the largest TLS record
READ, READ_TLS = 256 << 10, RECORD  # bytes of one read
TURN = 1 << 20  # bytes that one connection may read before others have their turn
VECTORS = 512  # buffers of one write; the kernel takes 1024
LINGER = 1.0  # seconds that a closing connection may take to send what it has


class Transport:
    """Owns `sock`. `keepalive`: seconds of silence before a ping, and to answer it; pings only while calls are open.

    `closed` is called once, when the connection has ended for whatever reason.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        keepalive: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.connection = connection
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._loop = asyncio.get_running_loop()
        self._interval, self._patience = keepalive
        self.closed: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Handle | None = None
        self._reading = self._writing = False
        self._last = self._loop.time()  # when something came
        self._ending = False  # close once everything is written
        self._size = READ_TLS if self._tls else READ
        self._fd = sock.fileno()
        self._read_on()
        self.flush()
        if self._interval:
            self._timer = self._loop.call_later(self._interval, self._check)

    @property
    def open(self) -> bool:
        return self._fd >= 0

    @property
    def peer(self) -> str:
        """IP address of the other end; "" on a unix socket, and once the connection has ended."""
        try:
            name = self._sock.getpeername()
        except OSError:
            return ""
        return str(name[0]) if isinstance(name, tuple) else ""

    @property
    def certificate(self) -> Mapping[str, Any]:
        """What the other end has shown and TLS has verified; {} without one."""
        if self._fd < 0 or not isinstance(self._sock, ssl.SSLSocket):
            return {}
        return self._sock.getpeercert() or {}

    def flush(self) -> None:
        """Send what the connection has, before the loop goes to sleep: many small messages become one write."""
        if self._flushing is None and self._fd >= 0:
            self._flushing = self._loop.call_soon(self._flush)

    def push(self) -> None:
        """Send at once if it is the first of this turn of the loop; what follows goes together, as with `flush`.

        Not for those whom the connection itself has called.
        """
        if self._flushing is None and self._fd >= 0:
            self.flush()
            if not self._writing:
                self._write()

    def hurry(self) -> None:
        """Do now what `flush` has put off. Not for those whom the connection itself has called."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()

    def close(self, text: str, now: bool = False) -> None:
        """End the connection: after what is queued, or at once. Open calls end as UNAVAILABLE with `text`."""
        if self._fd < 0:
            return
        if not now and not self._ending:
            self._ending = True
            self.connection.part(text)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(LINGER, self._drop, text)
            self.flush()
        elif now:
            self._drop(text)

    def _drop(self, text: str) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        for handle in (self._timer, self._flushing):
            if handle is not None:
                handle.cancel()
        self._timer = self._flushing = None
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        self._sock.close()
        self.connection.lost(text)
        if self.closed is not None:
            self.closed()

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        if self._fd < 0:
            return
        connection, taken = self.connection, 0
        try:
            while taken < TURN:
                data = self._sock.recv(self._size)
                if not data:
                    self._drop(connection.goaway or "the connection was closed")
                    return
                self._last = self._loop.time()
                if not self._ending:
                    connection.receive(data)
                taken += len(data)
                # A TLS record is read whole or not at all: nothing waits inside OpenSSL, where no selector sees it.
                if connection.broken or connection.queued > 2 * QUEUE or (not self._tls and len(data) < READ):
                    break
        except (ssl.SSLWantReadError, BlockingIOError, InterruptedError):
            pass  # all that there was
        except ssl.SSLWantWriteError:
            self._write_on()  # a handshake message has to go first; `_writable` reads on
        except OSError as e:
            self._drop(connection.goaway or reason(e))
            return
        if connection.broken and not self._ending:
            self.close(connection.broken[1])
        if connection.queued > 2 * QUEUE:
            # It asks without taking the answers.
            self._reading = False
            self._loop.remove_reader(self._fd)
        if connection.busy:
            self.flush()

    def _flush(self) -> None:
        self._flushing = None
        if self._fd < 0 or self._writing:
            return
        self._write()

    def _write_on(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        if self._fd >= 0:
            self._write()
        if self._tls:
            self._readable()

    def _write_off(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _write(self) -> None:
        connection = self.connection
        try:
            while True:
                connection.pump()
                out = connection.out
                if not out:
                    break
                if self._tls:
                    sent = self._sock.send(_joined(out))
                else:
                    sent = self._sock.sendmsg(out if len(out) < VECTORS else islice(out, VECTORS))
                connection.queued -= sent
                _advance(out, sent)
        except (ssl.SSLWantWriteError, BlockingIOError, InterruptedError):
            self._write_on()
            return
        except ssl.SSLWantReadError:
            self._write_off()  # a handshake message has to come first; the flush after it goes on
            return
        except OSError as e:
            # What the peer said last may still be there to read, and is the better reason.
            self._hear_out(e)
            return
        self._write_off()
        if self._ending:
            self._drop("")
        else:
            self._read_on()

    def _hear_out(self, error: OSError) -> None:
        text = reason(error)
        with suppress(OSError):
            for _ in range(TURN // self._size):  # it may go on sending although it takes nothing
                if self._ending or self.connection.broken or not (data := self._sock.recv(self._size)):
                    break
                self.connection.receive(data)
        self._drop(self.connection.goaway or text)

    def _check(self) -> None:
        """Ping if nothing came for the interval."""
        rest = self._last + self._interval - self._loop.time()
        if rest > 0 or not self.connection.streams:
            self._timer = self._loop.call_later(rest if rest > 0 else self._interval, self._check)
            return
        self.connection.ping()
        self.flush()
        self._timer = self._loop.call_later(self._patience, self._expect, self._last)

    def _expect(self, last: float) -> None:
        if self._last == last:
            self._drop("keepalive ping failed to receive ACK within timeout")
        else:
            self._check()


def reason(error: OSError) -> str:
    """What to say of a socket's error."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the connection was closed"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return error.strerror or str(error)


def _joined(out: deque[Buffer]) -> Buffer:
    """What fits into one TLS record: OpenSSL takes no more at a time."""
    parts: list[Buffer] = []
    room = RECORD
    for piece in out:
        if len(piece) >= room:
            parts.append(memoryview(piece)[:room])
            break
        parts.append(piece)
        room -= len(piece)
    return b"".join(parts) if len(parts) > 1 else parts[0]


def _advance(out: deque[Buffer], sent: int) -> None:
    while sent:
        piece = out[0]
        if len(piece) > sent:
            out[0] = memoryview(piece)[sent:]
            return
        sent -= len(piece)
        out.popleft()
