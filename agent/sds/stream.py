"""One secret stream between gRPC and its session: strictly serial, requests before pushes, no stream delays another."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc.aio
from google.protobuf.message import DecodeError

from agent.protos import xds_pb2
from agent.sds.session import SECRET_TYPE, DeltaSession, Refusal, Rejected, Session
from agent.sds.store import Store

FILE_PATIENCE = 10.0  # seconds that a stream waits for a file that is not there yet
UNDECODABLE = Refusal("INVALID_ARGUMENT", "the request cannot be decoded")


class Broadcast:
    """Wakes every open stream."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()

    def notify(self) -> None:
        for turn in self._listeners:
            turn.set()

    def __len__(self) -> int:
        return len(self._listeners)

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that is set by every `notify` while the block runs."""
        turn = asyncio.Event()
        self._listeners.add(turn)
        try:
            yield turn
        finally:
            self._listeners.discard(turn)


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
    """Feeds one session with requests and with changes of the store. `rejected` hears what the client could not use."""

    def __init__(
        self,
        session: Session | DeltaSession,
        dialect: Dialect,
        store: Store,
        changes: Broadcast,
        rejected: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        self._session = session
        self._dialect = dialect
        self._store = store
        self._changes = changes
        self._rejected = rejected
        self._followed: set[str] = set()

    async def run(self, context: Any) -> Refusal | None:
        """Serve a stream (grpc.aio.ServicerContext) to its end; a Refusal is the status it must end with."""
        inbox: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)
        try:
            with self._changes.listening() as turn:
                async with asyncio.TaskGroup() as group:
                    reader = group.create_task(_read(context, inbox, turn), name="sds-reader")
                    try:
                        return await self._talk(context, inbox, turn)
                    finally:
                        reader.cancel()
        finally:
            self._follow(())

    async def answer(self, raw: bytes) -> bytes | Refusal:
        """One request, one answer (FetchSecrets)."""
        try:
            with self._changes.listening() as turn:
                if refusal := self._take(raw):
                    return refusal
                while self._session.owes:
                    turn.clear()
                    if names := self._session.due(self._store.version):
                        return self._next(names)
                    if refusal := await self._wait(turn):
                        return refusal
                return self._dialect.build(self._store, (), os.urandom(16).hex())
        finally:
            self._follow(())

    async def _talk(self, context: Any, inbox: "asyncio.Queue[Any]", turn: asyncio.Event) -> Refusal | None:
        session = self._session
        while True:
            turn.clear()
            if not session.owes and not inbox.empty():
                raw = inbox.get_nowait()
                if raw is grpc.aio.EOF:
                    return None
                if refusal := self._take(raw):
                    return refusal
            elif names := session.due(self._store.version):
                await context.write(self._next(names))
            elif session.owes:
                if refusal := await self._wait(turn):
                    return refusal
            else:
                await turn.wait()

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

    async def _wait(self, turn: asyncio.Event) -> Refusal | None:
        """Until something changes. A Refusal when a file does not turn up; the CA may take for ever."""
        missing = [n for n in self._session.names if self._store.version(n) is None and self._store.problem(n)]
        if not missing:
            await turn.wait()
            return None
        try:
            patience = 0.0 if any(self._store.hopeless(n) for n in missing) else FILE_PATIENCE
            # Not wait_for: Python 3.11's swallows a cancellation that comes together with the event.
            async with asyncio.timeout(patience):
                await turn.wait()
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


async def _read(context: Any, inbox: "asyncio.Queue[Any]", turn: asyncio.Event) -> None:
    raw = None
    while raw is not grpc.aio.EOF:
        raw = await context.read()
        await inbox.put(raw)
        turn.set()
