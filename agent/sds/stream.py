"""One secret stream between gRPC and its session: strictly serial, requests before pushes, no stream delays another."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import grpc.aio
from google.protobuf.message import DecodeError

from agent import logs
from agent.protos import xds_pb2
from agent.sds.session import SECRET_TYPE, DeltaSession, Refusal, Rejected, Session
from agent.sds.store import Store

log = logs.scope("sds")

# Starts a coroutine in the server's group of tasks.
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
FILE_PATIENCE = 10.0  # seconds that a stream waits for a file that is not there yet
UNDECODABLE = Refusal("INVALID_ARGUMENT", "the request cannot be decoded")


class Broadcast:
    """Tells every open stream that something changed."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[], None]] = {}

    def notify(self) -> None:
        for listener in list(self._listeners.values()):
            listener()

    def __len__(self) -> int:
        return len(self._listeners)

    @contextlib.contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """`listener` is called by every `notify` while the block runs; it must not wait."""
        mark = object()
        self._listeners[mark] = listener
        try:
            yield
        finally:
            del self._listeners[mark]


class Dialect(Protocol):
    """How requests are read and answers are written."""

    def parse(self, raw: bytes) -> Any: ...
    def build(self, store: Store, names: tuple[str, ...], nonce: str) -> bytes: ...


# Envelope and resources are serialized apart and joined, as protobuf allows: the resources are the same for everybody.


class StateOfTheWorld:
    def parse(self, raw: bytes) -> xds_pb2.Request:
        return xds_pb2.Request.FromString(raw)

    def build(self, store: Store, names: tuple[str, ...], nonce: str) -> bytes:
        head = xds_pb2.Response(type_url=SECRET_TYPE, version_info=store.stamp(), nonce=nonce).SerializeToString()

        def body() -> bytes:
            response = xds_pb2.Response()
            for name in names:
                response.resources.add(type_url=SECRET_TYPE, value=store.encoded(name))
            return response.SerializeToString()

        return head + store.once(("sotw", *((name, store.version(name)) for name in names)), body)


class Delta:
    def parse(self, raw: bytes) -> xds_pb2.DeltaRequest:
        return xds_pb2.DeltaRequest.FromString(raw)

    def build(self, store: Store, names: tuple[str, ...], nonce: str) -> bytes:
        stamp = store.stamp()
        head = xds_pb2.DeltaResponse(type_url=SECRET_TYPE, system_version_info=stamp, nonce=nonce).SerializeToString()

        def body() -> bytes:
            response = xds_pb2.DeltaResponse()
            for name in names:
                resource = response.resources.add(name=name, version=store.version(name) or "")
                resource.resource.type_url = SECRET_TYPE
                resource.resource.value = store.encoded(name)
            return response.SerializeToString()

        return head + store.once(("delta", *((name, store.version(name)) for name in names)), body)


class Conversation:
    """Feeds one session with requests and with changes of the store. `rejected` hears what the client could not use;
    `spawn` runs a push beside the reader. A stream on which nothing happens is one coroutine that waits to read.
    """

    def __init__(
        self,
        session: Session | DeltaSession,
        dialect: Dialect,
        store: Store,
        changes: Broadcast,
        rejected: Callable[[str, tuple[str, ...]], None],
        spawn: Spawn,
    ) -> None:
        self._session = session
        self._dialect = dialect
        self._store = store
        self._changes = changes
        self._rejected = rejected
        self._spawn = spawn
        self._followed: set[str] = set()
        self._turn = asyncio.Event()  # something changed, or somebody else's write ended
        self._writing = self._settling = False
        self._push: asyncio.Task[None] | None = None

    async def run(self, context: Any) -> Refusal | None:
        """Serve a stream (grpc.aio.ServicerContext) to its end; a Refusal is the status it must end with."""
        try:
            with self._changes.listening(lambda: self._changed(context)):
                while (raw := await context.read()) is not grpc.aio.EOF:
                    if refusal := self._take(raw) or await self._settle(context):
                        return refusal
                return None
        finally:
            if self._push is not None:
                self._push.cancel()
            self._follow(())

    async def answer(self, raw: bytes) -> bytes | Refusal:
        """One request, one answer (FetchSecrets)."""
        try:
            with self._changes.listening(self._turn.set):
                if refusal := self._take(raw):
                    return refusal
                while self._session.owes:
                    self._turn.clear()
                    if names := self._session.due(self._store.version):
                        return self._next(names)
                    if refusal := await self._wait():
                        return refusal
                return self._dialect.build(self._store, (), os.urandom(16).hex())
        finally:
            self._follow(())

    async def _settle(self, context: Any) -> Refusal | None:
        """Until the answer to the last request is out: the next one must be read only then."""
        self._settling = True
        try:
            while True:
                self._turn.clear()
                busy = self._writing
                await self._write(context)
                if not self._session.owes:
                    return None
                if busy:
                    await self._turn.wait()
                elif refusal := await self._wait():
                    return refusal
        finally:
            self._settling = False

    def _changed(self, context: Any) -> None:
        self._turn.set()
        if not (self._writing or self._settling):
            self._push = self._spawn(self._push_to(context))

    async def _push_to(self, context: Any) -> None:
        try:
            await self._write(context)
        except Exception as e:  # noqa: BLE001 - gRPC has many words for a stream that ended
            # The client has gone; the reader of this stream hears of it too, and ends it.
            log.debug("a secret could not be pushed: %s: %s", type(e).__name__, e)
        finally:
            self._turn.set()

    async def _write(self, context: Any) -> None:
        """Send everything that is due, unless somebody does so already."""
        if self._writing:
            return
        self._writing = True
        try:
            while names := self._session.due(self._store.version):
                await context.write(self._next(names))
        finally:
            self._writing = False

    def _next(self, names: tuple[str, ...]) -> bytes:
        nonce = os.urandom(16).hex()
        message = self._dialect.build(self._store, names, nonce)
        self._session.sent(names, nonce, self._store.version)
        return message

    def _take(self, raw: bytes) -> Refusal | None:
        try:
            outcome = self._session.request(self._dialect.parse(raw))
        except DecodeError:
            return UNDECODABLE
        if isinstance(outcome, Rejected):
            self._rejected(outcome.message, self._session.names)
            return None
        self._follow(self._session.names)
        return outcome

    async def _wait(self) -> Refusal | None:
        """Until something changes. A Refusal when a file does not turn up; the CA may take for ever."""
        missing = [n for n in self._session.names if self._store.version(n) is None and self._store.problem(n)]
        if not missing:
            await self._turn.wait()
            return None
        try:
            patience = 0.0 if any(self._store.hopeless(n) for n in missing) else FILE_PATIENCE
            # Not wait_for: Python 3.11's swallows a cancellation that comes together with the event.
            async with asyncio.timeout(patience):
                await self._turn.wait()
        except TimeoutError:
            why = self._store.problem(missing[0])
            return Refusal("UNKNOWN", f"failed to generate secret for {missing[0][:200]}: {why}")
        return None

    def _follow(self, names: tuple[str, ...]) -> None:
        """Tell the store which names this stream wants now."""
        wanted = set(names)
        for name in wanted - self._followed:
            self._store.subscribe(name)
        for name in self._followed - wanted:
            self._store.unsubscribe(name)
        self._followed = wanted
