"""The aggregated discovery service of the lab: both flavours on one gRPC server, fed from `Latest[Mesh]`."""

import asyncio
import itertools
import secrets
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent import logs
from agent.lab import envelope, resources, serving, tokens
from agent.lab.mesh import Mesh
from agent.lab.session import NDS, Action, Push
from agent.lab.session_delta import DeltaSession
from agent.lab.session_state import StateSession
from agent.latest import Latest
from agent.rpc.call import ServerCall
from agent.rpc.sending import Limits
from agent.rpc.server import Server
from agent.rpc.status import Code, Gone, RpcError

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
log = logs.scope("ads")

PATIENCE = 1.0  # seconds for streams to end in order


@dataclass(frozen=True, slots=True)
class _Flavour:
    name: str
    session: Callable[[Callable[[], str]], Any]
    decode: Callable[[bytes], tuple[str, Any]]
    encode: Callable[[Push], bytes]


_DELTA = _Flavour("delta", DeltaSession, envelope.decode_delta, envelope.encode_delta)
_STATE = _Flavour("sotw", StateSession, envelope.decode_state, envelope.encode_state)


class AdsServer:
    """Serves `world` on `listen` (host:port or unix:PATH), over TLS if there is a `context`.

    With `issued` every stream must present one of the tokens it returns, for the node's own namespace.
    """

    def __init__(
        self,
        listen: str,
        world: Latest[Mesh],
        context: ssl.SSLContext | None,
        issued: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._listen = listen
        self._world = world
        self._issued = issued
        self._streams = itertools.count(1)
        self._open: set[_Stream] = set()
        routes = {
            f"/{SERVICE}/{method}": partial(self._serve, flavour)
            for method, flavour in (("StreamAggregatedResources", _STATE), ("DeltaAggregatedResources", _DELTA))
        }
        self._server = Server(routes, Limits(), context=context)
        self.port = 0

    async def start(self) -> None:
        """Bind. Raises FatalError when the address cannot be bound."""
        listener = serving.listen(self._listen)
        self._server.adopt(listener)
        if not self._listen.startswith("unix:"):
            self.port = listener.getsockname()[1]

    async def run(self) -> None:
        """Serve until cancelled; then end every stream and close."""
        async with asyncio.TaskGroup() as group:
            server = group.create_task(self._server.run(), name="ads server")
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                for stream in self._open:
                    stream.end()
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        for stream in list(self._open):
                            await stream.ended.wait()
                server.cancel()

    async def _serve(self, flavour: _Flavour, call: ServerCall) -> None:
        stream = _Stream(next(self._streams), flavour, self._world, call)
        self._open.add(stream)
        try:
            await stream.admit(self._issued)
            await stream.run()
        finally:
            self._open.discard(stream)
            stream.ended.set()
            stream.note("stream closed")


class _Stream:
    """One client. Requests are read at once, whatever it costs to answer them; mesh changes coalesce."""

    def __init__(self, number: int, flavour: _Flavour, world: Latest[Mesh], call: ServerCall) -> None:
        self._number = number
        self._flavour = flavour
        self._world = world
        self._call = call
        self.ended = asyncio.Event()
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

    async def admit(self, issued: Callable[[], Sequence[str]] | None) -> None:
        """Read the first request and learn who speaks. Raises RpcError for strangers."""
        first = await self._call.read()
        if first is None:
            return
        try:
            node_id, _ = self._flavour.decode(first)
            if not node_id:
                raise ValueError("missing node information")
            self._node = resources.Node.parse(node_id)
        except ValueError as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None
        if issued is not None:
            try:
                identity = tokens.authenticate(serving.metadata(self._call), issued())
            except ValueError as error:
                raise RpcError(Code.UNAUTHENTICATED, str(error)) from None
            if self._node is not None and identity.namespace != self._node.namespace:
                raise RpcError(
                    Code.PERMISSION_DENIED,
                    f"an identity of namespace {identity.namespace} cannot speak for a node of {self._node.namespace}",
                )
        self._inbox.put_nowait(first)
        self.note("stream opened", peer=self._call.client or "unix")

    async def run(self) -> None:
        """Answer until the client or the server ends. Raises RpcError for what cannot be answered."""
        if self._node is None:
            return
        refusal = None
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._read(), name=f"ads-read-{self._number}"),
                group.create_task(self._watch(), name=f"ads-watch-{self._number}"),
            ]
            try:
                await self._answer(self._node)
            except RpcError as error:
                refusal = error  # not one of a group
            for helper in helpers:
                helper.cancel()
        if refusal is not None:
            raise refusal

    async def _read(self) -> None:
        with suppress(Gone):
            while (raw := await self._call.read()) is not None:
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
                    raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None
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
            await self._call.write(payload)
            labels = {"resources": len(action.resources), "removed": len(action.removed), "bytes": len(payload)}
            self.note("push", type=kind, cause=cause, version=action.version, nonce=action.nonce, **labels)
        elif action.kind == "nack":
            self.note("NACK", type=kind, nonce=action.nonce, error=action.error)
        else:
            self.note("ACK" if action.kind == "ack" else action.kind, type=kind, nonce=action.nonce)


def _short(type_url: str) -> str:
    """`Listener`, `NameTable`: enough to read a log."""
    return "NameTable" if type_url == NDS else type_url.rpartition(".")[2] or type_url
