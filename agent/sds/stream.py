"""One secret stream between gRPC and its session: strictly serial, requests before pushes, no stream delays another."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from agent import logs
from agent.protos import xds_pb2
from agent.rpc.call import ServerCall
from agent.sds.ledger import LATE, Ledger
from agent.sds.session import SECRET_TYPE, DeltaSession, Refusal, Rejected, Session
from agent.sds.store import Store

log = logs.scope("sds")

AT_ONCE = 16  # streams whose pushes leave together
FILE_PATIENCE = 10.0  # seconds that a stream waits for a file that is not there yet
UNDECODABLE = Refusal("INVALID_ARGUMENT", "the request cannot be decoded")


class Broadcast:
    """Tells every open stream that something changed."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[], None]] = {}

    def notify(self, every: Callable[[], None]) -> None:
        """`every` is called after some of them each, and at the end: the first need not wait for the last."""
        listeners = list(self._listeners.values())
        for start in range(0, len(listeners), AT_ONCE):
            for listener in listeners[start : start + AT_ONCE]:
                try:
                    listener()
                except Exception as e:
                    log.error("a secret could not be pushed: %s: %s", type(e).__name__, e, exc_info=e)
            every()

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
    """Feeds one session with requests and with changes of the store. `rejected` hears what the client could not use.

    A stream on which nothing happens is one coroutine that waits to read; a push needs none. A client that takes its
    responses slowly has one of them waiting at most: what changes meanwhile is looked at when that one has gone.
    """

    def __init__(
        self,
        call: ServerCall,
        session: Session | DeltaSession,
        dialect: Dialect,
        store: Store,
        changes: Broadcast,
        ledger: Ledger,
        rejected: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        self._call = call
        self._session = session
        self._dialect = dialect
        self._store = store
        self._changes = changes
        self._ledger = ledger
        self._rejected = rejected
        self._followed: set[str] = set()
        self._deadline: float | None = None  # until when the answer that is owed waits for files
        self._turn = asyncio.Event()  # something changed, or a slow client has taken its response
        self._clock = asyncio.get_running_loop().time
        self._began = 0.0  # when the response that waits was sent
        self._late: asyncio.TimerHandle | None = None

    async def run(self) -> Refusal | None:
        """Serve the stream to its end; a Refusal is the status it must end with. Raises RpcError if it broke."""
        self._call.drained = self._drained
        try:
            with self._changes.listening(self._changed):
                while (raw := await self._call.read()) is not None:
                    if refusal := self._take(raw):
                        return refusal
                    # The next request is read when this one is answered.
                    self._deadline = None
                    while not self._advance():
                        if refusal := await self._wait():
                            return refusal
                return None
        finally:
            self._call.drained = None
            self._in_time()
            self._follow(())

    async def answer(self, raw: bytes) -> bytes | Refusal:
        """One request, one answer (FetchSecrets)."""
        try:
            with self._changes.listening(self._turn.set):
                if refusal := self._take(raw):
                    return refusal
                while self._session.owes:
                    if names := self._session.due(self._store.version):
                        return self._next(names)
                    if refusal := await self._wait():
                        return refusal
                return self._dialect.build(self._store, (), _nonce())
        finally:
            self._follow(())

    def _changed(self) -> None:
        self._turn.set()
        self._advance()

    def _drained(self) -> None:
        self._ledger.sent(self._clock() - self._began)
        self._in_time()
        self._changed()

    def _advance(self) -> bool:
        """Send everything that is due; true if neither an answer nor the client has to be waited for."""
        while not self._call.waits and (names := self._session.due(self._store.version)):
            began = self._clock()
            self._call.send(self._next(names))
            if self._call.waits:
                self._began = began
                self._late = asyncio.get_running_loop().call_later(LATE, self._too_late)
            else:
                self._ledger.sent(self._clock() - began)
        return not (self._call.waits or self._session.owes)

    def _too_late(self) -> None:
        self._ledger.timeouts += 1
        log.warning("a client has not taken a secret for %g s: %s", LATE, ", ".join(self._session.names)[:200])

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _next(self, names: tuple[str, ...]) -> bytes:
        nonce = _nonce()
        message = self._dialect.build(self._store, names, nonce)
        self._session.sent(names, nonce, self._store.version)
        return message

    def _take(self, raw: bytes) -> Refusal | None:
        self._ledger.received(len(raw))
        try:
            outcome = self._session.request(self._dialect.parse(raw))
        except DecodeError:
            return UNDECODABLE
        if isinstance(outcome, Refusal):
            return outcome
        self._follow(self._session.names)
        if isinstance(outcome, Rejected):
            self._rejected(outcome.message, self._session.names)
        return None

    async def _wait(self) -> Refusal | None:
        """Until it is worth while to look again. A Refusal when a file does not turn up; the CA may take for ever."""
        self._turn.clear()
        missing = [n for n in self._session.names if self._store.version(n) is None and self._store.problem(n)]
        if not missing or self._call.waits:
            await self._turn.wait()
            return None
        now = self._clock()
        if self._deadline is None:
            self._deadline = now + FILE_PATIENCE
        lost = [n for n in missing if self._store.hopeless(n)] or (missing if now >= self._deadline else [])
        if lost:
            why = self._store.problem(lost[0])
            return Refusal("UNKNOWN", f"failed to generate secret for {lost[0][:200]}: {why}")
        # Not wait_for: Python 3.11's swallows a cancellation that comes together with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                await self._turn.wait()
        return None

    def _follow(self, names: tuple[str, ...]) -> None:
        """Tell the store which names this stream wants now."""
        wanted = set(names)
        for name in wanted - self._followed:
            self._store.subscribe(name)
            self._followed.add(name)
        for name in self._followed - wanted:
            self._followed.discard(name)
            self._store.unsubscribe(name)


def _nonce() -> str:
    """A UUID of version 4; the module for that takes longer to load than all of these."""
    text = os.urandom(16).hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"
