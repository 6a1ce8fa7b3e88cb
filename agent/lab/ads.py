"""The aggregated discovery service of the lab: both flavours on one gRPC server, fed from `Latest[Mesh]`."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from agent import logs
from agent.errors import FatalError
from agent.lab import envelope, resources, tokens
from agent.lab.mesh import Mesh
from agent.lab.session import NDS, Action, Push
from agent.lab.session_delta import DeltaSession
from agent.lab.session_state import StateSession
from agent.latest import Latest

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
log = logs.scope("ads")

_OPTIONS = [
    ("grpc.so_reuseport", 0),  # a second plane on the same port must fail, not share it
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
]


@dataclass(frozen=True, slots=True)
class _Flavour:
    name: str
    session: Callable[[Callable[[], str]], Any]
    decode: Callable[[bytes], tuple[str, Any]]
    encode: Callable[[Push], bytes]


_DELTA = _Flavour("delta", DeltaSession, envelope.decode_delta, envelope.encode_delta)
_STATE = _Flavour("sotw", StateSession, envelope.decode_state, envelope.encode_state)


class AdsServer:
    """Serves `world` on `listen` (host:port or unix:PATH), over TLS if `pair` is (key, chain) in PEM.

    With `issued` every stream must present one of the tokens it returns, for the node's own namespace.
    """

    def __init__(
        self,
        listen: str,
        world: Latest[Mesh],
        pair: tuple[bytes, bytes] | None,
        issued: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._listen = listen
        self._world = world
        self._pair = pair
        self._issued = issued
        self._streams = itertools.count(1)
        self._open: set[_Stream] = set()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Bind and serve. Raises FatalError when the address cannot be bound."""
        server = grpc.aio.server(options=_OPTIONS)
        handlers = {
            method: grpc.stream_stream_rpc_method_handler(partial(self._serve, flavour))
            for method, flavour in (("StreamAggregatedResources", _STATE), ("DeltaAggregatedResources", _DELTA))
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            if self._pair is None:
                self.port = server.add_insecure_port(self._listen)
            else:
                self.port = server.add_secure_port(self._listen, grpc.ssl_server_credentials([self._pair]))
        except RuntimeError:
            self.port = 0
        if self.port == 0:
            raise FatalError(f"cannot listen on {self._listen}: the address is taken or not on this machine")
        await server.start()
        self._server = server

    async def run(self) -> None:
        """Serve until cancelled; then end every stream and close."""
        assert self._server is not None, "start() comes first"
        try:
            await self._server.wait_for_termination()
        finally:
            for stream in self._open:
                stream.end()
            await self._server.stop(grace=1.0)

    async def _serve(
        self, flavour: _Flavour, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> None:
        stream = _Stream(next(self._streams), flavour, self._world, context)
        self._open.add(stream)
        try:
            await stream.admit(requests, self._issued)
            await stream.run(requests)
        finally:
            self._open.discard(stream)
            stream.note("stream closed")


class _Stream:
    """One client. Requests are read at once, whatever it costs to answer them; mesh changes coalesce."""

    def __init__(self, number: int, flavour: _Flavour, world: Latest[Mesh], context: grpc.aio.ServicerContext) -> None:
        self._number = number
        self._flavour = flavour
        self._world = world
        self._context = context
        prefix = secrets.token_hex(4)
        counter = itertools.count(1)
        self._session = flavour.session(lambda: f"{prefix}-{next(counter)}")
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()  # b"" = the mesh changed, None = the end
        self._changed = False
        self._node: resources.Node | None = None

    def end(self) -> None:
        self._inbox.put_nowait(None)

    def note(self, text: str, **labels: object) -> None:
        who = f"{self._node.name}.{self._node.namespace}" if self._node else "unknown"
        log.info(text, extra={"labels": {"node": who, "stream": self._number, "flavour": self._flavour.name, **labels}})

    async def admit(self, requests: AsyncIterator[bytes], issued: Callable[[], Sequence[str]] | None) -> None:
        """Read the first request and learn who speaks. Ends the call for strangers."""
        first = await anext(aiter(requests), None)
        if first is None:
            return
        try:
            node_id, _ = self._flavour.decode(first)
            if not node_id:
                raise ValueError("missing node information")
            self._node = resources.Node.parse(node_id)
        except ValueError as error:
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if issued is not None:
            try:
                identity = tokens.authenticate(self._context.invocation_metadata() or (), issued())
            except ValueError as error:
                await self._context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            if self._node is not None and identity.namespace != self._node.namespace:
                await self._context.abort(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"an identity of namespace {identity.namespace} cannot speak for a node of {self._node.namespace}",
                )
        self._inbox.put_nowait(first)
        self.note("stream opened", peer=self._context.peer())

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Answer until the client or the server ends."""
        if self._node is None:
            return
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._read(requests), name=f"ads-read-{self._number}"),
                group.create_task(self._watch(), name=f"ads-watch-{self._number}"),
            ]
            await self._answer(self._node)
            for helper in helpers:
                helper.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        async for raw in requests:
            if raw:  # an empty message asks for nothing
                self._inbox.put_nowait(raw)
        self._inbox.put_nowait(None)

    async def _watch(self) -> None:
        seen = self._world.version
        while True:
            seen = await self._world.changed(seen)
            if not self._changed:
                self._changed = True
                self._inbox.put_nowait(b"")

    async def _answer(self, node: resources.Node) -> None:
        version, snapshot = self._world.version, resources.snapshot(self._world.value, node)
        while (raw := await self._inbox.get()) is not None:
            if version != self._world.version:
                version, snapshot = self._world.version, resources.snapshot(self._world.value, node)
            if raw:
                try:
                    _, request = self._flavour.decode(raw)
                except ValueError as error:
                    await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
                actions = self._session.request(request, snapshot)
            else:
                self._changed = False
                actions = self._session.update(snapshot)
            for action in actions:
                await self._perform(action, "request" if raw else "mesh")

    async def _perform(self, action: Action, cause: str) -> None:
        kind = _short(action.type_url)
        if isinstance(action, Push):
            payload = self._flavour.encode(action)
            await self._context.write(payload)
            labels = {"resources": len(action.resources), "removed": len(action.removed), "bytes": len(payload)}
            self.note("push", type=kind, cause=cause, version=action.version, nonce=action.nonce, **labels)
        elif action.kind == "nack":
            self.note("NACK", type=kind, nonce=action.nonce, error=action.error)
        else:
            self.note("ACK" if action.kind == "ack" else action.kind, type=kind, nonce=action.nonce)


def _short(type_url: str) -> str:
    """`Listener`, `NameTable`: enough to read a log."""
    return "NameTable" if type_url == NDS else type_url.rpartition(".")[2] or type_url
