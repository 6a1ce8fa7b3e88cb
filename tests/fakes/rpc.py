"""gRPC's own library at one end and ours at the other, over real sockets; and peers that speak by hand."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from agent.rpc.client import Link, attach, connect
from agent.rpc.sending import Limits
from agent.rpc.server import Handler, Server
from agent.rpc.status import Code, RpcError

SIZES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SECONDS = 20.0  # for what should come at once


@asynccontextmanager
async def serving(
    path: str, routes: Mapping[str, Handler], limits: Limits | None = None, keepalive: tuple[float, float] = (0.0, 0.0)
) -> AsyncIterator[Server]:
    """Our server at a unix socket; it ends with the block."""
    server = Server(routes, limits or Limits(), keepalive)
    server.bind(path)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run(), name="server under test")
        try:
            yield server
        finally:
            task.cancel()


@asynccontextmanager
async def channel(target: str, **options: int) -> AsyncIterator[grpc.aio.Channel]:
    """gRPC's own client. Keyword options are channel arguments, `__` for a dot."""
    own = [(name.replace("__", "."), value) for name, value in options.items()]
    made = grpc.aio.insecure_channel(target, options=[*SIZES, ("grpc.use_local_subchannel_pool", 1), *own])
    try:
        yield made
    finally:
        await made.close()


class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: Mapping[str, Any]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = self._methods.get(details.method)
        return grpc.stream_stream_rpc_method_handler(method) if method else None


@asynccontextmanager
async def grpcio(
    methods: Mapping[str, Any], credentials: grpc.ServerCredentials | None = None, **options: int
) -> AsyncIterator[int]:
    """gRPC's own server with stream-stream methods of bytes; gives its port on 127.0.0.1."""
    own = [(name.replace("__", "."), value) for name, value in options.items()]
    server = grpc.aio.server(options=[*SIZES, ("grpc.so_reuseport", 0), *own])
    server.add_generic_rpc_handlers((Methods(methods),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def dialled(port: int, context: ssl.SSLContext | None = None, name: str = "127.0.0.1", **more: Any) -> Link:
    """Our client."""
    async with asyncio.timeout(SECONDS):
        return await connect(
            "127.0.0.1", port, context, name, authority=f"127.0.0.1:{port}", user_agent="test/1", **more
        )


def pair(**more: Any) -> tuple[Link, socket.socket]:
    """Our client, and the bare other end of its connection, which does not block."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return attach(ours, "authority", "test/1", **more), theirs


async def ended(result: Awaitable[Any], seconds: float = SECONDS) -> tuple[Code, str]:
    """How a read or a write fails."""
    try:
        async with asyncio.timeout(seconds):
            found = await result
    except RpcError as e:
        return e.code, e.message
    raise AssertionError(f"it did not fail, but gave {found!r:.100}")


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def everything(sock: socket.socket) -> bytes:
    """What comes until the other end closes."""
    loop, found = asyncio.get_running_loop(), b""
    async with asyncio.timeout(SECONDS):
        while data := await loop.sock_recv(sock, 1 << 20):
            found += data
    return found
