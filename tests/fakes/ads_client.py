"""Envoy's side of ADS for tests, and a proxy under test between it and a fake control plane."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import grpc.aio

from agent.config import PeerConfig, XdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.model import XdsStatus
from agent.xds.proxy import XdsProxy
from agent.xds.session import Announcement
from agent.xds.stream import Handler
from agent.xds.wire import Flavour
from tests.fakes.plane import NAME, UNLIMITED, Authority, FakePlane


class EnvoyStream:
    """One discovery stream to the unix socket, frames as bytes, on a connection of its own."""

    def __init__(self, socket_path: str, flavour: Flavour) -> None:
        options = (*UNLIMITED, ("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost"))
        self._channel = grpc.aio.insecure_channel(f"unix:{socket_path}", options=options)
        self.call = self._channel.stream_stream(flavour.value)()

    async def send(self, frame: bytes) -> None:
        """Send one frame; a stream that ends meanwhile says why in `ended`."""
        with suppress(grpc.aio.AioRpcError):
            await self.call.wait_for_connection()
        # Not call.write(): when the stream ends under a write, that replaces the peer's status by INTERNAL.
        with suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
            await self.call._cython_call.send_serialized_message(frame)

    async def receive(self, timeout: float = 10) -> bytes:
        """The next response; AssertionError if the stream has ended."""
        frame = await asyncio.wait_for(self.call.read(), timeout)
        assert frame is not grpc.aio.EOF, "the stream has ended"
        return frame

    async def ended(self, timeout: float = 10) -> tuple[grpc.StatusCode, str]:
        """The status, after whatever responses are still to come."""

        async def status() -> tuple[grpc.StatusCode, str]:
            return await self.call.code(), await self.call.details() or ""

        try:
            while await asyncio.wait_for(self.call.read(), timeout) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await asyncio.wait_for(status(), timeout)

    async def half_close(self) -> None:
        await self.call.done_writing()

    async def close(self) -> None:
        self.call.cancel()
        await self._channel.close()


@dataclass
class Relay:
    """A proxy that runs, and what it reports."""

    config: XdsConfig
    status: Latest[XdsStatus]
    recorder: Recorder
    flavour: Flavour
    announcements: Latest[tuple[Announcement, ...]]

    def envoy(self) -> EnvoyStream:
        return EnvoyStream(self.config.socket_path, self.flavour)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.recorder.events()]


def peer_config(folder: Path, authority: Authority | None, *addresses: str) -> PeerConfig:
    """How the agent reaches the fake: TLS with that root, a token, a header."""
    root, token = folder / "root.pem", folder / "token"
    root.write_bytes(authority.pem if authority else b"")
    token.write_text("token-1")
    return PeerConfig(
        addresses=addresses,
        plaintext=authority is None,
        root_file=str(root),
        server_name=NAME,
        token_file=str(token),
        cluster_id="Kubernetes",
        headers={"X-Tenant": "blue"},
    )


@asynccontextmanager
async def relaying(
    folder: Path,
    plane: FakePlane | PeerConfig,
    authority: Authority | None = None,
    flavour: Flavour = Flavour.DELTA,
    handlers: Mapping[str, Handler] | None = None,
    own: Callable[[], tuple[bytes, bytes] | None] = lambda: None,
    **changes: object,
) -> AsyncIterator[Relay]:
    """A proxy between the fake plane and `Relay.envoy()`; `changes` go into its XdsConfig."""
    peer = plane if isinstance(plane, PeerConfig) else peer_config(folder, authority, plane.address)
    # Not to wait for a control plane that is not there, unless the test is about that.
    config = replace(XdsConfig(socket_path=str(folder / "proxy/XDS"), plane=peer), **{"hold": 0.0, **changes})
    relay = Relay(config, Latest(XdsStatus()), Recorder(), flavour, Latest(()))
    proxy = XdsProxy(config, relay.status, handlers or {}, relay.recorder, relay.announcements, own=own)
    await proxy.start()
    serving = asyncio.create_task(proxy.run(), name="proxy under test")
    try:
        yield relay
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        if not serving.cancelled():
            serving.result()
