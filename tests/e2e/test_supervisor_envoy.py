"""The supervisor and the readiness gate with the real Envoy: killed, restarted in place, drained."""

import asyncio
import json
import os
import socket
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.config import EnvoyConfig
from agent.envoy.launch import spawn
from agent.envoy.readiness import EnvoyReadiness
from agent.envoy.stop import StopSignal
from agent.envoy.supervisor import Supervisor
from agent.errors import FatalError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState
from tests.fakes.envoy import alive

BINARY = os.path.join(sysconfig.get_path("purelib"), "envoy", "_bin", "envoy")

pytestmark = pytest.mark.envoy


def reserve() -> socket.socket:
    """A port of ours that Envoy can bind although it is taken: bound, not listening, with SO_REUSEADDR."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def bootstrap(folder: Path, admin: int, inbound: int, upstream: int) -> dict[str, Any]:
    """An inbound HTTP listener in front of one upstream; clusters and listeners also come from (empty) files."""
    for name in ("cds", "lds"):
        (folder / f"{name}.json").write_text('{"version_info": "1", "resources": []}')
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        # Otherwise a draining Envoy keeps an HTTP/1 connection for 6 s after its last answer.
        "drain_timeout": "0.1s",
        "delayed_close_timeout": "0.1s",
        "route_config": {
            "virtual_hosts": [
                {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "in",
        "address": address(inbound),
        "traffic_direction": "INBOUND",
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    cluster = {
        "name": "app",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "app",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
        },
    }
    files = {
        n: {"resource_api_version": "V3", "path_config_source": {"path": str(folder / f"{n}.json")}}
        for n in ("cds", "lds")
    }
    return {
        "node": {"id": "x", "cluster": "x"},
        "admin": {"address": address(admin)},
        "dynamic_resources": {"cds_config": files["cds"], "lds_config": files["lds"]},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


class World:
    def __init__(self, folder: Path, **config: Any) -> None:
        self._sockets = [reserve(), reserve()]
        admin, self.inbound = (s.getsockname()[1] for s in self._sockets)
        self.folder, self.admin = folder, admin
        self.config = EnvoyConfig(True, BINARY, str(folder), "", admin, "127.0.0.1", 15021, 15090, **config)
        self.state = Latest(EnvoyState(EnvoyPhase.STOPPED))
        self.recorder = Recorder()
        self.stop = StopSignal()
        self.release = asyncio.Event()
        self.asked = 0
        self.pids: list[int] = []

    def play(self, script: Callable[["World"], Awaitable[None]]) -> int:
        async def run() -> int:
            async with self._upstream() as port:
                path = self.folder / "envoy.json"
                path.write_text(json.dumps(bootstrap(self.folder, self.admin, self.inbound, port)))
                argv = [
                    "-c",
                    str(path),
                    "--disable-hot-restart",
                    "-l",
                    "error",
                    "--concurrency",
                    "1",
                    "--drain-time-s",
                    "2",
                ]
                supervisor = Supervisor(self.config, lambda: spawn(self.config, argv, {}), self.state, self.recorder)
                self.ready = EnvoyReadiness(self.config, self.state)
                async with asyncio.TaskGroup() as group:
                    watcher = group.create_task(self._note())
                    helper = group.create_task(script(self))
                    try:
                        async with asyncio.timeout(60):
                            return await supervisor.run(self.stop)
                    finally:
                        watcher.cancel()
                        if self.stop.requested:
                            await helper
                        helper.cancel()

        try:
            return asyncio.run(run())
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1 and isinstance(group.exceptions[0], FatalError):
                raise group.exceptions[0] from None
            raise
        finally:
            for sock in self._sockets:
                sock.close()
            assert not any(alive(pid) for pid in self.pids)

    async def _note(self) -> None:
        async for state in self.state.watch():
            if state.pid is not None and state.pid not in self.pids:
                self.pids.append(state.pid)

    @asynccontextmanager
    async def _upstream(self) -> AsyncIterator[int]:
        """An application that answers once `release` is set."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await self.release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def until_ready(self) -> int:
        while not (await self.ready()).ready:
            await asyncio.sleep(0.01)
        pid = self.state.value.pid
        assert pid is not None
        return pid

    async def get(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.inbound)
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return await reader.read()
        finally:
            writer.close()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.recorder.events()]


def test_a_killed_envoy_serves_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.release.set()

    async def script(world: World) -> None:
        first = await world.until_ready()
        assert (await world.get()).startswith(b"HTTP/1.1 200")
        os.kill(first, 9)
        await world.state.until(lambda state: state.crashes == 1)
        assert not (await world.ready()).ready, "the next one has to prove itself"
        second = await world.until_ready()
        assert second != first
        assert (await world.get()).startswith(b"HTTP/1.1 200")
        world.stop.quit("test")

    assert world.play(script) == 0
    assert world.kinds() == ["crashed", "restarted", "ended"]


def test_a_request_in_flight_survives_the_drain(tmp_path: Path) -> None:
    world = World(tmp_path, termination_drain_duration=1.5)

    async def script(world: World) -> None:
        await world.until_ready()
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(world.get())
            while not world.asked:
                await asyncio.sleep(0.01)
            world.stop.request("SIGTERM")
            while "draining" not in world.kinds():
                await asyncio.sleep(0.01)
            world.release.set()
        assert slow.result().endswith(b"hello")

    assert world.play(script) == 0
    assert world.kinds() == ["draining", "ended"]


def test_waiting_for_real_connections_to_end(tmp_path: Path) -> None:
    world = World(tmp_path, exit_on_zero_connections=True, minimum_drain_duration=0.1, termination_drain_duration=600.0)

    async def script(world: World) -> None:
        pid = await world.until_ready()
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(world.get())
            while not world.asked:
                await asyncio.sleep(0.01)
            world.stop.request("SIGTERM")
            await asyncio.sleep(2.5)
            assert alive(pid), "one connection is still open"
            world.release.set()
        assert slow.result().endswith(b"hello")

    assert world.play(script) == 0


def test_an_envoy_that_refuses_its_configuration_is_given_up(tmp_path: Path) -> None:
    world = World(tmp_path, restarts=1)
    bad = tmp_path / "bad.json"
    bad.write_text('{"admin": {"nonsense": true}}')

    async def run() -> None:
        supervisor = Supervisor(
            world.config, lambda: spawn(world.config, ["-c", str(bad), "-l", "off"], {}), world.state, world.recorder
        )
        with pytest.raises(FatalError, match=r"Envoy exited with status 1; that was crash number 2 within 60 s"):
            await supervisor.run(world.stop)

    asyncio.run(run())
    assert world.state.value.phase is EnvoyPhase.GIVEN_UP


def test_quitting_envoy_itself_is_a_success(tmp_path: Path) -> None:
    """Wrappers of jobs call Envoy's own /quitquitquit."""
    world = World(tmp_path)

    async def script(world: World) -> None:
        await world.until_ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", world.admin)
        writer.write(b"POST /quitquitquit HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await reader.read()
        writer.close()

    assert world.play(script) == 0
    assert world.kinds() == ["ended"]
