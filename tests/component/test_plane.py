"""The control plane over real gRPC: streams, pushes on reload, bad files, strangers, signals, taken ports."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.errors import FatalError
from agent.lab import setup
from agent.lab.ads import SERVICE, AdsServer
from agent.lab.mesh import Mesh, parse
from agent.lab.plane import MeshFile
from agent.lab.serving import issued_in
from agent.lab.session import CDS, EDS, LDS, NDS
from agent.latest import Latest
from agent.protos import names_pb2, xds_pb2

MESH = """\
services:
  - {name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080}
workloads:
  - {name: b, namespace: demo, service_account: b, ip: 10.77.0.12, service: b}
"""
MORE = MESH.replace("services:\n", "services:\n  - {name: c, namespace: demo, vip: 10.96.0.3, port: 80}\n")
NODE = "sidecar~10.77.0.12~b.demo~demo.svc.cluster.local"
RUN = [sys.executable, "-m", "agent", "lab"]


def held(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 30))


class Client:
    """One ADS stream of either flavour, decoded."""

    def __init__(self, channel: grpc.aio.Channel, delta: bool, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.request, self.response = (
            (xds_pb2.DeltaRequest, xds_pb2.DeltaResponse) if delta else (xds_pb2.Request, xds_pb2.Response)
        )
        method = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        self.call = channel.stream_stream(f"/{SERVICE}/{method}")(metadata=metadata)

    async def send(self, type_url: str, node: bool = False, **fields: Any) -> None:
        message = self.request(type_url=type_url, **fields)
        if node:
            message.node.id = NODE
        await self.call.write(message.SerializeToString())

    async def refusal(self) -> grpc.StatusCode | None:
        """The status that ends the stream, or None if a message comes first."""
        try:
            return None if await self.call.read() is not grpc.aio.EOF else await self.call.code()
        except grpc.aio.AioRpcError as error:
            return error.code()

    async def receive(self) -> Any:
        raw = await self.call.read()
        assert isinstance(raw, bytes), f"the stream ended: {await self.call.code()} {await self.call.details()}"
        return self.response.FromString(raw)


@asynccontextmanager
async def serving(world: Latest[Mesh], path: Path, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = AdsServer(f"unix:{path}", world, None, **options)
    await server.start()
    running = asyncio.ensure_future(server.run())
    try:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            yield channel
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_delta_stream_follows_the_mesh(tmp_path: Path) -> None:
    async def body() -> None:
        world = Latest(parse(MESH))
        async with serving(world, tmp_path / "s") as channel:
            client = Client(channel, delta=True)
            await client.send(CDS, node=True)
            first = await client.receive()
            assert "inbound|8080||" in [r.name for r in first.resources]
            await client.send(CDS, response_nonce=first.nonce)
            await client.send(NDS)
            names = await client.receive()
            assert names.type_url == names.resources[0].resource.type_url == NDS
            table = names_pb2.NameTable.FromString(names.resources[0].resource.value).table
            assert list(table) == ["b.demo.svc.cluster.local"]

            world.set(parse(MORE))
            added = await client.receive()
            assert [r.name for r in added.resources] == ["outbound|80||c.demo.svc.cluster.local"]
            assert (await client.receive()).type_url == NDS
            world.set(parse(MESH))
            removed = await client.receive()
            assert list(removed.removed_resources) == ["outbound|80||c.demo.svc.cluster.local"]
            assert len({first.nonce, names.nonce, added.nonce, removed.nonce}) == 4

    held(body)


def test_state_stream_follows_the_mesh(tmp_path: Path) -> None:
    async def body() -> None:
        world = Latest(parse(MESH))
        async with serving(world, tmp_path / "s") as channel:
            client = Client(channel, delta=False)
            await client.send(LDS, node=True)
            first = await client.receive()
            assert len(first.resources) == 3
            await client.send(LDS, response_nonce=first.nonce, version_info=first.version_info)
            await client.send(EDS, resource_names=["outbound|80||b.demo.svc.cluster.local"])
            assert (await client.receive()).type_url == EDS
            world.set(parse(MORE))
            second = await client.receive()
            assert len(second.resources) == 4
            assert second.version_info != first.version_info

    held(body)


def test_a_change_reaches_every_stream(tmp_path: Path) -> None:
    async def body() -> None:
        world = Latest(parse(MESH))
        async with serving(world, tmp_path / "s") as channel:
            clients = [Client(channel, delta=number % 2 == 0) for number in range(20)]
            for client in clients:
                await client.send(NDS, node=True)
                await client.receive()
            world.set(parse(MORE))
            assert {(await client.receive()).type_url for client in clients} == {NDS}

    held(body)


@pytest.mark.parametrize("raw", [b"\xff\xff", xds_pb2.Request(type_url=CDS).SerializeToString()])
def test_a_first_request_without_a_node_is_refused(tmp_path: Path, raw: bytes) -> None:
    async def body() -> None:
        async with serving(Latest(parse(MESH)), tmp_path / "s") as channel:
            client = Client(channel, delta=False)
            await client.call.write(raw)
            assert await client.refusal() is grpc.StatusCode.INVALID_ARGUMENT

    held(body)


def test_tokens_are_demanded_on_request(tmp_path: Path) -> None:
    setup.initialise(tmp_path / "lab", parse(MESH + "  - {name: x, namespace: other, ip: 10.77.0.13}\n"), [])
    folder = tmp_path / "lab" / setup.TOKENS

    async def body() -> None:
        async with serving(Latest(parse(MESH)), tmp_path / "s", issued=issued_in(folder)) as channel:

            async def outcome(token: str) -> grpc.StatusCode | None:
                client = Client(channel, True, (("authorization", f"Bearer {token}"),))
                await client.send(CDS, node=True)
                return await client.refusal()

            assert await outcome((folder / "demo.b").read_text()) is None
            assert await outcome("lab.demo.b.guess") is grpc.StatusCode.UNAUTHENTICATED
            assert await outcome((folder / "other.x").read_text()) is grpc.StatusCode.PERMISSION_DENIED

    held(body)


def test_stopping_ends_streams_in_order(tmp_path: Path) -> None:
    async def body() -> None:
        server = AdsServer(f"unix:{tmp_path / 's'}", Latest(parse(MESH)), None)
        await server.start()
        running = asyncio.ensure_future(server.run())
        async with grpc.aio.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
            client = Client(channel, delta=True)
            await client.send(CDS, node=True)
            await client.receive()
            running.cancel()
            assert await client.refusal() is grpc.StatusCode.OK
            await asyncio.gather(running, return_exceptions=True)

    held(body)


def test_a_taken_port_is_one_sentence() -> None:
    async def body() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(FatalError, match="the address is taken"):
                await AdsServer(f"127.0.0.1:{taken.getsockname()[1]}", Latest(Mesh()), None).start()

    held(body)


def test_a_bad_mesh_file_keeps_the_old_mesh(tmp_path: Path) -> None:
    async def body() -> None:
        path = tmp_path / "mesh.yaml"
        path.write_text(MESH)
        file = MeshFile(path)
        file.load()
        following = asyncio.ensure_future(file.run())
        before = file.world.value
        path.write_text("frob: 1")
        file.reload()  # what SIGHUP does
        assert file.world.value is before
        path.unlink()
        path.write_text(MORE)
        assert len((await file.world.until(lambda mesh: len(mesh.services) == 2)).services) == 2
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    held(body)


def test_the_process(tmp_path: Path) -> None:
    """TLS, SIGHUP, log lines and SIGTERM of the real command."""
    mesh, folder = tmp_path / "mesh.yaml", tmp_path / "lab"
    mesh.write_text(MESH)
    setup.initialise(folder, parse(MESH), [])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["plane", "--mesh", str(mesh), "--listen", f"127.0.0.1:{port}", "--root", str(folder / setup.ROOT_CERT)]
    arguments += ["--cert", str(folder / setup.SERVER_CERT), "--key", str(folder / setup.SERVER_KEY)]
    child = subprocess.Popen([*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None

    async def body() -> None:
        root = (folder / setup.ROOT_CERT).read_bytes()
        override = (("grpc.ssl_target_name_override", "istiod.istio-system.svc"),)
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{port}", grpc.ssl_channel_credentials(root), options=override
        ) as channel:
            client = Client(channel, delta=True)
            await client.send(NDS, node=True)
            first = await client.receive()
            await client.send(NDS, response_nonce=first.nonce)
            await client.send(NDS, response_nonce=first.nonce, error_detail=xds_pb2.Status(code=13, message="no"))
            mesh.write_text(MORE)
            os.kill(child.pid, signal.SIGHUP)
            second = await client.receive()
            await client.send(NDS, response_nonce=second.nonce, error_detail=xds_pb2.Status(code=13, message="no"))
            await client.call.done_writing()
            assert await client.call.read() is grpc.aio.EOF

    try:
        assert "serving" in child.stdout.readline()
        held(body)
    finally:
        child.terminate()
        out, err = child.communicate(timeout=20)
    assert child.returncode == 0, err
    assert err == ""
    for word in ("push\t", "ACK\t", "NACK\t", "error=no", "mesh loaded", "type=NameTable", "node=b.demo"):
        assert word in out, word


def test_the_process_refuses_a_bad_mesh_and_a_taken_port(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text("frob: 1")
    plane = [*RUN, "plane", "--plaintext", "--mesh", str(mesh), "--listen"]
    bad = subprocess.run([*plane, "127.0.0.1:0"], capture_output=True, text=True, timeout=20, check=False)
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (255, "", 1)
    mesh.write_text(MESH)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        busy = subprocess.run([*plane, address], capture_output=True, text=True, timeout=20, check=False)
    assert (busy.returncode, busy.stderr.count("\n")) == (1, 1), busy.stderr
    assert address in busy.stderr
