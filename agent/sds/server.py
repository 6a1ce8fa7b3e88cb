"""The secret discovery service for Envoy, on a unix socket."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc
import grpc.aio

from agent import logs, uds
from agent.config import SdsConfig
from agent.errors import FatalError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import Secret
from agent.sds.follow import Follower
from agent.sds.session import DeltaSession, Refusal, Session
from agent.sds.store import Store
from agent.sds.stream import Broadcast, Conversation, Delta, StateOfTheWorld

log = logs.scope("sds")

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
OPTIONS = (
    ("grpc.max_concurrent_streams", 100_000),
    ("grpc.max_send_message_length", -1),  # chains may be larger than 4 MiB
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)


class SdsServer:
    """Serves `secret` and mounted files. A request before the first certificate waits, whatever the CA does."""

    def __init__(self, config: SdsConfig, secret: Latest[Secret | None], recorder: Recorder) -> None:
        self._config = config
        self._secret = secret
        self._recorder = recorder
        self._store = Store(config, secret)
        self._changes = Broadcast()
        self._follower = Follower(self._store, config.debounce, self._notify)
        self._server: grpc.aio.Server | None = None
        self._group: asyncio.TaskGroup | None = None
        self.rejects = 0  # pilot_total_xds_rejects{type="sds"}
        self.errors = 0  # pilot_total_xds_internal_errors: streams that ended because a file is not usable
        self.stale = 0  # pilot_xds_expired_nonce{type="sds"}

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

    def report(self) -> list[dict[str, Any]]:
        """The files that are served: JSON types, never a key."""
        return self._store.report()

    async def start(self) -> None:
        """Bind the socket, mode 0666, replacing whatever a former run left there. Raises FatalError."""
        path = self._config.socket_path
        uds.clear(path)
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((_Handlers(self),))
        # Envoy may be another user and dials at once: the mode must be right from the first moment.
        mask = os.umask(0o111)
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as e:
            raise FatalError(f"cannot bind the secret socket {path}; is its directory writable for this user?") from e
        finally:
            os.umask(mask)
        os.chmod(path, 0o666)
        await server.start()
        self._server = server
        log.info("secrets are served on %s", path)

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._server is None:
            raise AssertionError("start() comes before run()")
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._follow_secret(), name="sds-secret")
                group.create_task(self._follower.run(), name="sds-files")
                await self._server.wait_for_termination()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End every stream and close the socket."""
        if self._server is not None:
            await self._server.stop(None)

    async def _follow_secret(self) -> None:
        async for _ in self._secret.watch():
            self._notify()

    def _notify(self) -> None:
        self._store.forget()
        self._changes.notify()

    async def stream(self, _: AsyncIterator[bytes], context: Any) -> None:
        """StreamSecrets."""
        await self._converse(Session(), StateOfTheWorld(), context)

    async def delta(self, _: AsyncIterator[bytes], context: Any) -> None:
        """DeltaSecrets."""
        await self._converse(DeltaSession(), Delta(), context)

    async def fetch(self, raw: bytes, context: Any) -> bytes:
        """FetchSecrets."""
        conversation = self._conversation(Session(), StateOfTheWorld())
        answer = await conversation.answer(raw)
        if isinstance(answer, Refusal):
            await context.abort(grpc.StatusCode[answer.code], answer.message)
            raise AssertionError("abort() raises")
        return answer

    def _conversation(self, session: Session | DeltaSession, dialect: StateOfTheWorld | Delta) -> Conversation:
        return Conversation(session, dialect, self._store, self._changes, self._rejected, self._spawn)

    def _spawn(self, push: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        if self._group is None:
            raise AssertionError("nothing changes before run()")
        return self._group.create_task(push, name="sds-push")

    async def _converse(self, session: Session | DeltaSession, dialect: StateOfTheWorld | Delta, context: Any) -> None:
        conversation = self._conversation(session, dialect)
        try:
            refusal = await conversation.run(context)
        finally:
            self.stale += session.stale
        if refusal is not None:
            self.errors += refusal.code == "UNKNOWN"
            log.warning("a secret stream ends: %s", refusal.message)
            await context.abort(grpc.StatusCode[refusal.code], refusal.message)

    def _rejected(self, why: str, names: tuple[str, ...]) -> None:
        self.rejects += 1
        message = f"Envoy rejected a secret ({', '.join(names)[:200]}): {why[:500]}"
        self._recorder.record("sds", "rejected", message, level=logging.WARNING)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Routes calls by name; messages stay bytes."""

    def __init__(self, server: SdsServer) -> None:
        self._methods = {
            f"/{SERVICE}/StreamSecrets": grpc.stream_stream_rpc_method_handler(server.stream),
            f"/{SERVICE}/DeltaSecrets": grpc.stream_stream_rpc_method_handler(server.delta),
            f"/{SERVICE}/FetchSecrets": grpc.unary_unary_rpc_method_handler(server.fetch),
        }

    def service(self, details: Any) -> Any:
        return self._methods.get(details.method)
