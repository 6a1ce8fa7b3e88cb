"""Calling a gRPC server: one connection, made for the occasion, and calls on it."""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress

from agent.config import HttpProxy
from agent.rpc.call import ClientCall
from agent.rpc.connection import Connection
from agent.rpc.dial import dial
from agent.rpc.frames import encode_headers
from agent.rpc.sending import Limits
from agent.rpc.status import Code, RpcError, encode_timeout
from agent.rpc.transport import Transport

Metadata = Iterable[tuple[str, str]]


class Link:
    """A connection to a server. Whoever makes it closes it: `async with` does."""

    def __init__(self, transport: Transport, authority: str, secure: bool, user_agent: str) -> None:
        self._transport = transport
        self._pseudo = (
            (b":method", b"POST"),
            (b":scheme", b"https" if secure else b"http"),
            (b":authority", authority.encode()),
        )
        self._fixed = (
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", user_agent.encode()),
        )

    @property
    def heard(self) -> bool:
        """Whether the server has shown that it speaks HTTP/2."""
        return self._transport.connection.heard

    def call(self, method: str, metadata: Metadata = (), timeout: float | None = None) -> ClientCall:
        """Start a call; `timeout` in seconds is told to the server and is for the caller to keep. Raises RpcError."""
        # Pseudo-header fields come first (RFC 9113 section 8.3).
        pairs = [*self._pseudo, (b":path", method.encode()), *self._fixed]
        if timeout is not None:
            pairs.append((b"grpc-timeout", encode_timeout(timeout)))
        pairs += [(name.encode(), value.encode("latin-1")) for name, value in metadata]
        connection = self._transport.connection
        stream = connection.open(encode_headers(pairs))
        if stream is None:
            code, text = connection.broken or (Code.UNAVAILABLE, connection.goaway or "the server takes no more calls")
            raise RpcError(code, text, heard=connection.heard)
        self._transport.flush()
        return ClientCall(self._transport, stream)

    async def unary(self, method: str, message: bytes, metadata: Metadata = (), timeout: float | None = None) -> bytes:
        """One request, one response. Raises RpcError, DEADLINE_EXCEEDED after `timeout` seconds."""
        call = self.call(method, metadata, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await _exchange(call, message)
        except TimeoutError as e:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"no answer within {timeout:g} s", heard=self.heard) from e
        finally:
            call.cancel()

    def close(self, now: bool = False) -> None:
        """End the connection, after what is on its way unless `now`."""
        self._transport.connection.leave()
        self._transport.close("the connection was closed here", now)

    async def __aenter__(self) -> "Link":
        return self

    async def __aexit__(self, *_: object) -> None:
        # What was waited for comes first.
        asyncio.get_running_loop().call_soon(self.close)


async def _exchange(call: ClientCall, message: bytes) -> bytes:
    with suppress(RpcError):  # the server has answered already: `read` tells how
        await call.write(message)
    call.finish()
    answer = await call.read()
    if answer is None or await call.read() is not None:
        raise RpcError(Code.INTERNAL, "the server did not give one message as its answer")
    return answer


async def connect(
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    server_name: str,
    *,
    authority: str,
    user_agent: str,
    limits: Limits | None = None,
    keepalive: tuple[float, float] = (0.0, 0.0),
    source: str | None = None,
    proxy: HttpProxy | None = None,
) -> Link:
    """Dial a server, over TLS if there is a `context`. Raises DialError; how long it may take is the caller's."""
    sock = await dial(host, port, context, server_name, source, proxy)
    return attach(sock, authority, user_agent, context is not None, limits=limits, keepalive=keepalive)


def attach(
    sock: socket.socket,
    authority: str,
    user_agent: str,
    secure: bool = False,
    *,
    limits: Limits | None = None,
    keepalive: tuple[float, float] = (0.0, 0.0),
) -> Link:
    """Speak on a connected non-blocking socket, which belongs to the link from now on."""
    transport = Transport(sock, Connection(True, limits or Limits()), keepalive)
    return Link(transport, authority, secure, user_agent)
