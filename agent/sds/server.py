"""The secret discovery service for Envoy, on a unix socket."""

import asyncio
import logging
import socket
from typing import Any

from agent import logs
from agent.config import SdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.model import Secret
from agent.protos import secret_pb2, xds_pb2
from agent.rpc.call import ServerCall
from agent.rpc.sending import Limits
from agent.rpc.server import Server, reflecting
from agent.rpc.status import Code, RpcError
from agent.sds.follow import Follower
from agent.sds.ledger import Ledger
from agent.sds.mounted import Mounted
from agent.sds.session import DeltaSession, Refusal, Session
from agent.sds.store import Store
from agent.sds.stream import Broadcast, Conversation, Delta, StateOfTheWorld
from agent.text import one_line, scrub

log = logs.scope("sds")

STREAM, DELTA, FETCH = (
    f"/envoy.service.secret.v3.SecretDiscoveryService/{name}Secrets" for name in ("Stream", "Delta", "Fetch")
)
LIMITS = Limits(window=65_535, streams=100_000, message=4 << 20)
KEEPALIVE = (30.0, 10.0)


class SdsServer:
    """Serves `secret` and mounted files. A request before the first certificate waits, whatever the CA does.

    `listener`: the socket, if it exists already. `bundle`: the control plane's trust bundle, PEM.
    """

    def __init__(
        self,
        config: SdsConfig,
        secret: Latest[Secret | None],
        recorder: Recorder,
        listener: socket.socket | None = None,
        bundle: Latest[tuple[str, ...]] | None = None,
    ) -> None:
        self._config = config
        self._listener = listener
        self._secret = secret
        self._recorder = recorder
        self._bundle: Latest[tuple[str, ...]] = Latest(()) if bundle is None else bundle
        self._store = Store(config, secret, self._bundle)
        self._mounted = Mounted(self._store.files, recorder)
        self._changes = Broadcast()
        self._follower = Follower(self._store, config.debounce, self._notify)
        self._server: Server | None = None
        self.ledger = Ledger()

    @property
    def streams(self) -> int:
        """Open now."""
        return len(self._changes)

    @property
    def watch_failures(self) -> int:
        """num_file_watcher_failures_total."""
        return self._follower.failures

    @property
    def file_failures(self) -> int:
        """num_file_secret_failures_total."""
        return self._store.files.failures

    def ends(self) -> dict[str, float]:
        """When each mounted certificate that is served expires, by name, epoch seconds."""
        return self._mounted.ends()

    def report(self, ca: bool) -> list[dict[str, Any]]:
        """What is served beside the CA's certificate: JSON types, never a key. `ca`: there is one."""
        return self._store.report(ca)

    async def start(self) -> None:
        """Bind the socket, unless that has been done. Raises FatalError."""
        handlers = {STREAM: self.stream, DELTA: self.delta, FETCH: self.fetch}
        server = Server({**handlers, **reflecting(_describe)}, LIMITS, KEEPALIVE)
        if self._listener is None:
            server.bind(self._config.socket_path)
        else:
            server.adopt(self._listener)
        self._server = server
        log.info("secrets are served on %s", self._config.socket_path)

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._server is None:
            raise AssertionError("start() comes before run()")
        with self._secret.listening(self._notify), self._bundle.listening(self._notify):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follower.run(), name="sds-files")
                group.create_task(self._mounted.run(), name="sds-mounted")
                await self._server.run()

    def _notify(self) -> None:
        self._store.forget()
        if self._server is not None:
            self._changes.notify(self._server.hurry)

    async def stream(self, call: ServerCall) -> None:
        """StreamSecrets."""
        await self._converse(call, Session(), StateOfTheWorld())

    async def delta(self, call: ServerCall) -> None:
        """DeltaSecrets."""
        await self._converse(call, DeltaSession(), Delta())

    async def fetch(self, call: ServerCall) -> None:
        """FetchSecrets."""
        if (raw := await call.read()) is None:
            raise RpcError(Code.INVALID_ARGUMENT, "the call ended without a request")
        answer = await self._conversation(call, Session(), StateOfTheWorld()).answer(raw)
        if isinstance(answer, Refusal):
            raise RpcError(Code[answer.code], answer.message)
        await call.write(answer)

    def _conversation(
        self, call: ServerCall, session: Session | DeltaSession, dialect: StateOfTheWorld | Delta
    ) -> Conversation:
        return Conversation(call, session, dialect, self._store, self._changes, self.ledger, self._rejected)

    async def _converse(
        self, call: ServerCall, session: Session | DeltaSession, dialect: StateOfTheWorld | Delta
    ) -> None:
        try:
            refusal = await self._conversation(call, session, dialect).run()
        finally:
            self.ledger.stale += session.stale
        if refusal is not None:
            self.ledger.errors += refusal.code == "UNKNOWN"
            log.warning("a secret stream ends: %s", refusal.message)
            raise RpcError(Code[refusal.code], refusal.message)

    def _rejected(self, why: str, names: tuple[str, ...]) -> None:
        self.ledger.rejects += 1
        # Envoy may quote what it could not use.
        message = one_line(f"Envoy rejected a secret ({', '.join(names)[:200]}): {scrub(why)[:500]}")
        self._recorder.record("sds", "rejected", message, level=logging.WARNING)


def _describe() -> tuple[Any, Any]:
    """What people's tools are told."""
    plain = "remora.xds.Request", "remora.xds.Response"
    delta = "remora.xds.DeltaRequest", "remora.xds.DeltaResponse"
    return {STREAM: plain, DELTA: delta, FETCH: plain}, [xds_pb2.DESCRIPTOR, secret_pb2.DESCRIPTOR]
