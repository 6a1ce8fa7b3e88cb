"""The secret server over a real unix socket: the conversation, waiting, rotation pushes, hostile clients."""

import asyncio
import logging
import os
import shutil
import socket
import stat
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.config import IdentityConfig, PeerConfig, SdsConfig
from agent.errors import FatalError
from agent.events import Recorder
from agent.identity.manager import IdentityManager
from agent.latest import Latest
from agent.model import Readiness, Secret
from agent.protos import reflection_pb2, secret_pb2, xds_pb2
from agent.rpc import frames
from agent.sds.report import shadow
from agent.sds.server import SdsServer
from tests.fakes import http2
from tests.fakes.ca import SERVER_NAME, FakeCa, Root, lasting
from tests.fakes.sds_client import NODE, SECRET, SERVICE, SdsClient, open_socket, secrets
from tests.fakes.waiting import eventually

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"


def make_secret(name: str = "one", root: Root | None = None) -> Secret:
    return Secret(
        chain=f"chain of {name}\n".encode(),
        key=f"key of {name}\n".encode(),
        roots=root.pem if root else b"roots",
        identity=SPIFFE,
        not_before=0.0,
        not_after=time.time() + 3600,
        created=time.time(),
    )


class World:
    def __init__(self, tmp: Path, secret: Secret | None, **config: Any) -> None:
        self.tmp = tmp
        self.path = str(tmp / "run" / "socket")
        self.config = SdsConfig(socket_path=self.path, crl_file=str(tmp / "crl.pem"), **config)
        self.secret: Latest[Secret | None] = Latest(secret)
        self.bundle: Latest[tuple[str, ...]] = Latest(())
        self.recorder = Recorder()
        self.server = SdsServer(self.config, self.secret, self.recorder, bundle=self.bundle)


@asynccontextmanager
async def serving(tmp: Path, secret: Secret | None = None, **config: Any) -> AsyncIterator[World]:
    async with running(World(tmp, secret, **config)) as world:
        yield world


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    await world.server.start()
    task = asyncio.ensure_future(world.server.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task.exception()


def chain(secret: secret_pb2.Secret) -> bytes:
    return secret.tls_certificate.certificate_chain.inline_bytes


def test_a_request_before_the_first_certificate_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as w, SdsClient(w.path) as a, SdsClient(w.path) as b:
            await a.ask("default", "ROOTCA")
            await b.ask("default")
            await eventually(lambda: w.server.streams == 2)
            w.secret.set(make_secret())
            got = secrets(await a.receive())
            assert chain(got["default"]) == b"chain of one\n"
            assert got["default"].tls_certificate.private_key.inline_bytes == b"key of one\n"
            assert got["ROOTCA"].validation_context.trusted_ca.inline_bytes == b"roots"
            assert "default" in secrets(await b.receive())

    asyncio.run(main())


def test_a_push_carries_only_what_changed(tmp_path: Path) -> None:
    async def main() -> None:
        first = make_secret("one")
        async with serving(tmp_path, first) as w, SdsClient(w.path) as cert, SdsClient(w.path) as root:
            await cert.ask("default")
            await cert.follow("default")
            await root.ask("ROOTCA")
            await root.follow("ROOTCA")
            w.secret.set(replace(make_secret("two"), roots=first.roots))
            assert chain(await cert.follow("default")) == b"chain of two\n"
            w.secret.set(make_secret("three", Root("new")))
            assert chain(await cert.follow("default")) == b"chain of three\n"
            # Had the second secret been pushed to the root's stream, it would have come first.
            pushed = await root.follow("ROOTCA")
            assert pushed.validation_context.trusted_ca.inline_bytes == w.secret.value.roots  # type: ignore[union-attr]

    asyncio.run(main())


def test_every_other_name_gets_the_workload_certificate_under_that_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            got = await c.get("kubernetes://x", "file-cert:a~b~c", "file-root:a~b")
            assert {chain(s) for s in got.values()} == {b"chain of one\n"}
            assert len(got) == 3

    asyncio.run(main())


def test_the_revocation_list_is_named_once_it_exists(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            assert not (await c.get("ROOTCA"))["ROOTCA"].validation_context.HasField("crl")
            (tmp_path / "crl.pem").write_text("x")
            assert (await c.get("ROOTCA"))["ROOTCA"].validation_context.crl.filename == w.config.crl_file

    asyncio.run(main())


METHODS = ("StreamSecrets", "DeltaSecrets", "FetchSecrets")
streams = pytest.mark.parametrize("method", METHODS[:2])


def request(method: str, *names: str, node: bool = True, type_url: str = SECRET) -> bytes:
    """The first one on a stream of this method."""
    sender = NODE if node else None
    if method == "DeltaSecrets":
        delta = xds_pb2.DeltaRequest(node=sender, type_url=type_url, resource_names_subscribe=names)
        return delta.SerializeToString()
    return xds_pb2.Request(node=sender, type_url=type_url, resource_names=names).SerializeToString()


def hostile(method: str, what: str) -> bytes:
    """A first request that is wrong in one way."""
    if what == "bytes":
        return b"\xff" * 4
    names = map(str, range(100_000)) if what == "names" else ["default"]
    return request(method, *names, node=what != "node", type_url="other" if what == "type" else SECRET)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("node", "missing node information"),
        ("type", "secrets only"),
        ("names", "100000 secrets on one stream; at most 1000"),
        ("bytes", "cannot be decoded"),
    ],
)
def test_a_hostile_stream_ends_alone(tmp_path: Path, method: str, what: str, sentence: str) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as good, SdsClient(w.path, method) as bad:
            await good.get("default")
            await bad.send(hostile(method, what))
            with pytest.raises(grpc.aio.AioRpcError) as e:
                await bad.receive()
            assert e.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert sentence in (e.value.details() or "")
            await eventually(lambda: w.server.streams == 1)
            w.secret.set(make_secret("two"))
            assert chain(secrets(await good.receive())["default"]) == b"chain of two\n"

    asyncio.run(main())


def test_stale_nonces_are_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w:
            async with SdsClient(w.path) as c:
                await c.ask("default")
                await c.follow("default")
                await c.ask("default", nonce="old")
                await c.ask("default", "ROOTCA")
                await c.receive()
            await eventually(lambda: w.server.ledger.stale == 1)

    asyncio.run(main())


def test_random_bytes_on_the_socket_disturb_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as good:
            await good.get("default")
            for junk in (
                os.urandom(4096),
                b"GET / HTTP/1.1\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
            ):
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(w.path)
                    s.sendall(junk)
            w.secret.set(make_secret("two"))
            assert chain(secrets(await good.receive())["default"]) == b"chain of two\n"

    asyncio.run(main())


async def pushed(w: World, good: SdsClient, big: Secret) -> None:
    """Change the secret again and again: `good` gets each at once, whoever does not read."""
    for i in range(30):
        w.secret.set(replace(big, chain=big.chain + str(i).encode()))
        assert chain(secrets(await good.receive())["default"]).endswith(b"x" + str(i).encode())


@streams
@pytest.mark.parametrize("connection", ["its own", "shared"])
def test_a_client_that_never_reads_delays_nobody(tmp_path: Path, method: str, connection: str) -> None:
    async def main() -> None:
        big = replace(make_secret(), chain=b"x" * 300_000)
        async with (
            serving(tmp_path, big) as w,
            SdsClient(w.path) as good,
            SdsClient(w.path, method, good if connection == "shared" else None) as deaf,
        ):
            await deaf.ask("default")
            await eventually(lambda: w.server.ledger.largest > 0)
            await good.get("default")
            await pushed(w, good, big)
            assert w.server.streams == 2

    asyncio.run(main())


@streams
def test_a_connection_that_is_never_read_delays_nobody(tmp_path: Path, method: str) -> None:
    """It grants all the room there is and takes nothing: what the kernel does not hold waits in the server."""

    async def main() -> None:
        big = replace(make_secret(), chain=b"x" * 300_000)
        async with serving(tmp_path, big) as w, SdsClient(w.path) as good:
            await good.get("default")
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.connect(w.path)
                settings = frames.settings([(frames.S_INITIAL_WINDOW, frames.MAX_WINDOW)])
                room = frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW)
                block = http2.request(SERVICE + method)
                ask = http2.message(request(method, "default"))
                asked = b"".join(http2.headers(i, block) + http2.data(i, ask) for i in range(1, 41, 2))
                deaf.sendall(frames.PREFACE + settings + room + asked)
                await eventually(lambda: w.server.streams == 21)
                await pushed(w, good, big)
            await eventually(lambda: w.server.streams == 1)

    asyncio.run(main())


def test_a_slow_client_gets_what_it_was_sent_and_then_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sds.stream.LATE", 0.05)

    async def main() -> None:
        big = replace(make_secret(), chain=b"x" * 3_000_000)
        async with serving(tmp_path, big) as w, SdsClient(w.path) as slow:
            await slow.ask("default")
            await eventually(lambda: w.server.ledger.send_times()[-1][1] == 1)
            for i in range(20):
                w.secret.set(replace(big, chain=big.chain + str(i).encode()))
            await eventually(lambda: w.server.ledger.timeouts == 1)  # it is counted, and lives
            got = [chain(secrets(await slow.receive())["default"])[3_000_000:] for _ in range(3)]
            assert got == [b"", b"0", b"19"]
            await eventually(lambda: w.server.ledger.send_times()[-1][1] == 3)
            assert w.server.ledger.send_seconds >= 0.05

    asyncio.run(main())


def test_a_request_beyond_all_measure_ends_its_stream_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as bad, SdsClient(w.path) as good:
            await good.get("default")
            await bad.ask("x" * (5 << 20))
            with pytest.raises(grpc.aio.AioRpcError) as e:
                await bad.receive()
            assert e.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert 0 < w.server.ledger.largest < 1000
            w.secret.set(make_secret("two"))
            assert chain(secrets(await good.receive())["default"]) == b"chain of two\n"

    asyncio.run(main())


def test_a_client_that_has_nothing_more_to_ask_is_answered_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as w, SdsClient(w.path) as c:
            await c.ask("default")
            await c.call.done_writing()
            await eventually(lambda: w.server.streams == 1)
            w.secret.set(make_secret())
            assert chain(secrets(await c.receive())["default"]) == b"chain of one\n"
            assert await c.call.code() is grpc.StatusCode.OK

    asyncio.run(main())


def test_a_rejection_is_recorded_and_the_stream_lives(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            await c.ask("default")
            response = await c.receive()
            await c.ask("default", nonce=response.nonce, error="bad key")
            await eventually(lambda: w.server.ledger.rejects == 1)
            assert "bad key" in w.recorder.events()[-1].message
            w.secret.set(make_secret("two"))
            assert chain(await c.follow("default")) == b"chain of two\n"

    asyncio.run(main())


def test_a_rejection_may_ask_for_more(tmp_path: Path) -> None:
    async def main() -> None:
        _, cert = write_pair(tmp_path, Root())
        name = f"file-cert:{tmp_path}/cert.pem~{tmp_path}/key.pem"
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path, "DeltaSecrets") as c:
            await c.ask("default")
            await c.receive()
            error = xds_pb2.Status(message="no use")
            await c.send(xds_pb2.DeltaRequest(resource_names_subscribe=[name], error_detail=error))
            assert chain(secrets(await c.receive())[name]) == cert

    asyncio.run(main())


def test_a_hundred_streams_get_one_push_each(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(SdsClient(w.path)) for _ in range(100)]
            await asyncio.gather(*(c.get("default") for c in clients))
            w.secret.set(make_secret("two"))
            got = [secrets(r)["default"] for r in await asyncio.gather(*(c.receive() for c in clients))]
            assert {chain(s) for s in got} == {b"chain of two\n"}
            assert await clients[0].silent()
        await eventually(lambda: w.server.streams == 0)

    asyncio.run(main())


def test_streams_that_come_and_go_leave_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def visit(w: World, i: int) -> None:
        async with SdsClient(w.path) as c:
            await c.ask("default" if i % 3 else "never: file-root:/nonexistent", f"file-root:/nonexistent/{i}")
            if i % 2:
                await asyncio.sleep(0.001 * (i % 7))

    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as good:
            await good.get("default")
            tasks, fds = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
            for start in range(0, 200, 20):
                await asyncio.gather(*(visit(w, i) for i in range(start, start + 20)))
                w.secret.set(make_secret(str(start)))
                await good.receive()
            await eventually(lambda: w.server.streams == 1)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            await eventually(lambda: len(os.listdir("/proc/self/fd")) <= fds + 2)

    logging.getLogger("agent").propagate = True
    asyncio.run(main())
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


def test_delta_and_fetch_are_served_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as w, SdsClient(w.path, "DeltaSecrets") as c:
            fetching = open_socket(w.path)
            call = fetching.unary_unary(SERVICE + "FetchSecrets")
            ask = xds_pb2.Request(node=NODE, type_url=SECRET, resource_names=["default"]).SerializeToString()
            answer = asyncio.ensure_future(call(ask, timeout=10))
            await c.send(xds_pb2.DeltaRequest(node=NODE, type_url=SECRET, resource_names_subscribe=["default"]))
            await eventually(lambda: w.server.streams == 2)
            w.secret.set(make_secret())
            assert chain(secrets(xds_pb2.Response.FromString(await answer))["default"]) == b"chain of one\n"
            (resource,) = (await c.receive()).resources
            assert resource.name == "default"
            assert chain(secret_pb2.Secret.FromString(resource.resource.value)) == b"chain of one\n"
            await c.send(xds_pb2.DeltaRequest(resource_names_unsubscribe=["default"], resource_names_subscribe=["x"]))
            assert [r.name for r in (await c.receive()).resources] == ["x"]
            w.secret.set(make_secret("two"))
            assert [r.name for r in (await c.receive()).resources] == ["x"]
            with pytest.raises(grpc.aio.AioRpcError) as e:
                await call(b"", timeout=5)
            assert e.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            await fetching.close()

    asyncio.run(main())


def test_tools_are_told_what_there_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as w, open_socket(w.path) as channel:
            call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
            await call.write(reflection_pb2.Request(list_services="").SerializeToString())
            listed = reflection_pb2.Response.FromString(await call.read()).list_services_response.service
            assert SERVICE.strip("/") in {s.name for s in listed}

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ mounted files


def write_pair(folder: Path, root: Root) -> tuple[bytes, bytes]:
    key, cert = root.workload("spiffe://mounted/x")
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_bytes(cert)
    return key, cert


def whole(secret: secret_pb2.Secret) -> bytes:
    """The chain, after a look at whether its key goes with it."""
    key = serialization.load_pem_private_key(secret.tls_certificate.private_key.inline_bytes, None)
    assert x509.load_pem_x509_certificate(chain(secret)).public_key() == key.public_key()
    return chain(secret)


def test_half_a_bundle_of_roots_is_served_to_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        path, name = tmp_path / "root.pem", f"file-root:{tmp_path}/root.pem"
        old, new = Root().pem, Root().pem + Root().pem
        path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + old)
        async with serving(tmp_path) as w, SdsClient(w.path) as c, SdsClient(w.path) as late:
            await c.ask(name)
            assert (await c.follow(name)).validation_context.trusted_ca.inline_bytes == old
            path.write_bytes(new[:-100])
            await eventually(lambda: w.server.file_failures == 1)
            assert (await late.get(name))[name].validation_context.trusted_ca.inline_bytes == old
            path.write_bytes(new)
            for client in (c, late):
                assert (await client.follow(name)).validation_context.trusted_ca.inline_bytes == new

    asyncio.run(main())


Pair = tuple[bytes, bytes]  # key, certificate


def write(folder: Path, pair: Pair) -> None:
    (folder / "key.pem").write_bytes(pair[0])
    (folder / "cert.pem").write_bytes(pair[1])


# Each way to change the files stops wherever a reader could find them unfit.


def rewrite(mount: Path, pair: Pair) -> Iterator[None]:
    (mount / "cert.pem").write_bytes(pair[1][:100])
    yield
    (mount / "cert.pem").write_bytes(pair[1])
    yield
    (mount / "key.pem").write_bytes(pair[0][:100])
    yield
    (mount / "key.pem").write_bytes(pair[0])


def rename(mount: Path, pair: Pair) -> Iterator[None]:
    new = mount.with_name("new")
    new.mkdir(exist_ok=True)
    write(new, pair)
    os.rename(new / "key.pem", mount / "key.pem")
    yield
    os.rename(new / "cert.pem", mount / "cert.pem")


def kubelet(mount: Path, pair: Pair) -> Iterator[None]:
    """A new directory, then `..data` renamed over the old link."""
    new = mount / f"..{uuid.uuid4()}"
    new.mkdir()
    write(new, pair)
    (mount / "..tmp").symlink_to(new.name)
    os.rename(mount / "..tmp", mount / "..data")
    for name in ("cert.pem", "key.pem"):
        if not (mount / name).is_symlink():
            (mount / name).unlink(missing_ok=True)
            (mount / name).symlink_to(f"..data/{name}")
    yield from ()


def chained(mount: Path, pair: Pair) -> Iterator[None]:
    """The mount itself is a link to a link."""
    real = mount.with_name(f"deep{uuid.uuid4()}")
    real.mkdir()
    write(real, pair)
    (mount.parent / "next").symlink_to(real.name)
    os.rename(mount.parent / "next", mount.parent / "alias")
    if not mount.is_symlink():
        shutil.rmtree(mount)
        mount.symlink_to("alias")
    yield from ()


def vanish(mount: Path, pair: Pair) -> Iterator[None]:
    shutil.rmtree(mount)
    yield
    mount.mkdir()
    (mount / "cert.pem").write_bytes(pair[1])
    yield
    (mount / "key.pem").write_bytes(pair[0])


@pytest.mark.parametrize("change", [rewrite, rename, kubelet, chained, vanish])
def test_every_way_to_change_a_file_reaches_envoy_soon_and_whole(
    tmp_path: Path, change: Callable[[Path, Pair], Iterator[None]]
) -> None:
    async def main() -> None:
        root, mount = Root(), tmp_path / "mount"
        mount.mkdir()
        key, old = write_pair(mount, root)
        for _ in change(mount, (key, old)):
            pass
        name = f"file-cert:{mount}/cert.pem~{mount}/key.pem"
        async with serving(tmp_path, debounce=0.01) as w, SdsClient(w.path) as c:
            await c.ask(name)
            assert whole(await c.follow(name)) == old
            for _ in range(3):
                key, new = root.workload("spiffe://mounted/x")
                counted = w.server.file_failures
                for _ in change(mount, (key, new)):
                    await eventually(lambda: w.server.file_failures > counted)  # noqa: B023
                    counted = w.server.file_failures
                    async with SdsClient(w.path) as other:
                        assert whole((await other.get(name))[name]) == old
                assert whole(await c.follow(name)) == new
                old = new
            assert w.server.watch_failures == 0

    asyncio.run(main())


def test_the_revocation_list_is_pushed_when_it_comes_and_goes(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            await c.ask("ROOTCA")
            assert not (await c.follow("ROOTCA")).validation_context.HasField("crl")
            (tmp_path / "crl.pem").write_text("x")
            assert (await c.follow("ROOTCA")).validation_context.crl.filename == w.config.crl_file
            (tmp_path / "crl.pem").unlink()
            assert not (await c.follow("ROOTCA")).validation_context.HasField("crl")

    asyncio.run(main())


def test_the_servers_report_tells_of_files(tmp_path: Path) -> None:
    async def main() -> None:
        write_pair(tmp_path, Root())
        name = f"file-cert:{tmp_path}/cert.pem~{tmp_path}/key.pem"
        async with serving(tmp_path) as w, SdsClient(w.path) as c:
            await c.get(name)
            (row,) = w.server.report(ca=True)
            assert (row["name"], row["certificate"]["san"]) == (name, ["spiffe://mounted/x"])

    asyncio.run(main())


def test_what_envoy_says_of_a_secret_is_one_line_without_keys(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            await c.ask("default")
            nonce = (await c.receive()).nonce
            key = "-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----"
            await c.ask("default", nonce=nonce, error=f"cannot load\n\x1b[2J{key}")
            await eventually(lambda: w.server.ledger.rejects == 1)
            (event,) = w.recorder.events()
            assert event.message == r"Envoy rejected a secret (default): cannot load\n\x1b[2J(redacted)"

    asyncio.run(main())


def test_files_that_may_be_mounted_and_are_not_are_no_trouble(tmp_path: Path) -> None:
    """As in every plain pod: Envoy asks for both names, and the CA has them."""

    async def main() -> None:
        world = World(tmp_path, make_secret())
        mounted = {part: str(tmp_path / f"{part}.pem") for part in ("cert", "key", "root")}
        world.config = replace(world.config, **{f"{part}_file": path for part, path in mounted.items()})
        world.server = SdsServer(world.config, world.secret, world.recorder)
        async with running(world) as w, SdsClient(w.path) as c:
            await c.get("default", "ROOTCA")
            assert w.server.report(ca=True) == []
            # They come: Envoy gets them instead, and the report says so.
            (tmp_path / "root.pem").write_bytes(Root().pem)
            _, cert = write_pair(tmp_path, Root("mounted"))
            seen: dict[str, bytes] = {}
            while len(seen) < 2:
                for name, secret in secrets(await c.receive()).items():
                    seen[name] = chain(secret) or secret.validation_context.trusted_ca.inline_bytes
                await c.ask("default", "ROOTCA")
            assert seen["default"] == cert
            rows = w.server.report(ca=True)
            assert [(row["name"], row["served"]) for row in rows] == [("default", True), ("ROOTCA", True)]
            assert w.server.ends().keys() == {"default", "ROOTCA"}
            assert [event.kind for event in w.recorder.events()] == ["mounted"]
            assert shadow({"name": "default"}, rows)["shadowed_by"] == [mounted["cert"], mounted["key"]]

    asyncio.run(main())


def test_a_file_that_appears_later_is_served_then(tmp_path: Path) -> None:
    async def main() -> None:
        name = f"file-cert:{tmp_path}/cert.pem~{tmp_path}/key.pem"
        async with serving(tmp_path) as w, SdsClient(w.path) as c:
            await c.ask(name)
            await eventually(lambda: w.server.streams == 1)
            _, cert = write_pair(tmp_path, Root())
            assert chain(await c.follow(name)) == cert

    asyncio.run(main())


MOUNTED = {"cert_file": "cert.pem", "key_file": "key.pem", "root_file": "root.pem"}


def mounted(tmp: Path) -> dict[str, str]:
    """The configuration in which ordinary names may be these files."""
    return {field: str(tmp / name) for field, name in MOUNTED.items()}


async def refused(client: SdsClient) -> str:
    """Why the stream ends with UNKNOWN."""
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await client.receive()
    assert e.value.code() is grpc.StatusCode.UNKNOWN
    return e.value.details() or ""


def test_whoever_waited_is_served_what_a_newcomer_found(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            serving(tmp_path, make_secret(), **mounted(tmp_path)) as w,
            SdsClient(w.path) as a,
            SdsClient(w.path) as b,
            SdsClient(w.path) as c,
        ):
            name = f"file-cert:{tmp_path}/cert.pem~{tmp_path}/key.pem"
            await a.ask("default")
            assert chain(await a.follow("default")) == b"chain of one\n"
            await c.ask(name)
            await eventually(lambda: w.server.file_failures == 1)
            _, cert = write_pair(tmp_path, Root())
            got = await b.get("default", name)
            assert [chain(s) for s in got.values()] == [cert, cert]
            assert chain(await a.follow("default")) == cert
            assert chain(await c.follow(name)) == cert

    asyncio.run(main())


def test_patience_with_a_file_does_not_begin_anew_with_everything_that_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sds.stream.FILE_PATIENCE", 0.1)

    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            await c.ask("file-root:/nonexistent")
            waiting = asyncio.ensure_future(refused(c))
            async with asyncio.timeout(10):
                while not waiting.done():
                    w.secret.set(make_secret())
                    await asyncio.sleep(0.01)
            assert "cannot read /nonexistent" in await waiting

    asyncio.run(main())


def test_every_answer_has_its_own_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sds.stream.FILE_PATIENCE", 3600.0)

    async def main() -> None:
        async with serving(tmp_path) as w, SdsClient(w.path) as c:
            names = [f"file-root:{tmp_path}/{i}" for i in range(2)]
            await c.ask(names[0])
            await eventually(lambda: w.server.file_failures == 1)
            (tmp_path / "0").write_bytes(Root().pem)
            nonce = (await c.receive()).nonce
            monkeypatch.setattr("agent.sds.stream.FILE_PATIENCE", 0.01)
            await c.ask(*names, nonce=nonce)
            assert names[1] in await refused(c)

    asyncio.run(main())


def test_a_stream_looks_again_before_it_gives_a_file_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sds.stream.FILE_PATIENCE", 0.3)
    monkeypatch.setattr("agent.sds.follow.SETTLE", 3600.0)  # nobody tells

    async def main() -> None:
        async with serving(tmp_path, debounce=3600.0) as w, SdsClient(w.path) as c:
            name = f"file-cert:{tmp_path}/cert.pem~{tmp_path}/key.pem"
            await c.ask(name)
            await eventually(lambda: w.server.file_failures == 1)
            _, cert = write_pair(tmp_path, Root())
            w.server._store.subscribe(name)
            assert chain(await c.follow(name)) == cert

    asyncio.run(main())


def test_without_a_ca_a_stream_ends_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sds.stream.FILE_PATIENCE", 0.3)

    async def main() -> None:
        async with serving(tmp_path, ca=False, **mounted(tmp_path)) as w:
            async with SdsClient(w.path) as c:
                await c.ask("ROOTCA")
                reason = f"there is no CA, and cannot read {tmp_path}/root.pem: No such file or directory"
                assert await refused(c) == f"failed to generate secret for ROOTCA: {reason}"
            _, cert = write_pair(tmp_path, Root())
            async with SdsClient(w.path) as c:
                assert chain((await c.get("default"))["default"]) == cert

    asyncio.run(main())


def test_without_a_ca_and_files_a_stream_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sds.stream.FILE_PATIENCE", 3600.0)

    async def main() -> None:
        async with serving(tmp_path, ca=False) as w, SdsClient(w.path) as c:
            await c.ask("default")
            assert "failed to generate secret for default: there is no CA, and no mounted files" in await refused(c)

    asyncio.run(main())


def test_the_control_planes_bundle_joins_mounted_roots_and_is_pushed(tmp_path: Path) -> None:
    async def main() -> None:
        root, other = Root("mounted"), Root("other")
        (tmp_path / "root.pem").write_bytes(root.pem)
        async with serving(tmp_path, **mounted(tmp_path)) as w, SdsClient(w.path) as c:
            await c.ask("ROOTCA")
            assert (await c.follow("ROOTCA")).validation_context.trusted_ca.inline_bytes == root.pem
            w.bundle.set((other.pem.decode(),))
            merged = b"\n".join(sorted([root.pem.strip(), other.pem.strip()]))
            assert (await c.follow("ROOTCA")).validation_context.trusted_ca.inline_bytes == merged

    asyncio.run(main())


def test_a_pair_outlives_the_stream_that_asked_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        name = f"file-cert:{tmp_path}/cert.pem~{tmp_path}/key.pem"
        _, cert = write_pair(tmp_path, Root())
        async with serving(tmp_path) as w:
            async with SdsClient(w.path) as c:
                await c.get(name)
            await eventually(lambda: w.server.streams == 0)
            (tmp_path / "key.pem").unlink()
            async with SdsClient(w.path) as c:
                assert chain((await c.get(name))[name]) == cert

    asyncio.run(main())


def test_nonces_are_uuids(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            seen = set()
            for i in range(20):
                await c.ask("default")
                nonce = (await c.receive()).nonce
                assert (str(uuid.UUID(nonce)), uuid.UUID(nonce).version) == (nonce, 4), i
                seen.add(nonce)
            assert len(seen) == 20

    asyncio.run(main())


def test_news_of_the_workload_before_the_first_request_are_skipped(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
            await c.ask(node=False, type_url="type.googleapis.com/istio.v1.HealthInformation")
            assert chain((await c.get("default"))["default"]) == b"chain of one\n"

    asyncio.run(main())


def test_an_empty_file_name_ends_only_that_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as bad, SdsClient(w.path) as good:
            await bad.ask("file-root:")
            with pytest.raises(grpc.aio.AioRpcError) as e:
                await bad.receive()
            assert e.value.code() is grpc.StatusCode.UNKNOWN
            assert "failed to generate secret for file-root:" in (e.value.details() or "")
            assert w.server.ledger.errors == 1
            assert "default" in await good.get("default")

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ the socket


@pytest.mark.parametrize("former", ["socket", "file", "dangling link", "link"])
def test_whatever_is_in_the_sockets_place_is_replaced(tmp_path: Path, former: str) -> None:
    async def main() -> None:
        place = tmp_path / "run" / "socket"
        place.parent.mkdir()
        target = tmp_path / "target"
        target.write_text("mine")
        if former == "socket":
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(str(place))
        elif former == "file":
            place.write_text("x")
        else:
            place.symlink_to(target if former == "link" else tmp_path / "nowhere")
        old = os.umask(0o077)
        try:
            async with serving(tmp_path, make_secret()) as w, SdsClient(w.path) as c:
                status = os.lstat(place)
                assert stat.S_ISSOCK(status.st_mode)
                assert stat.S_IMODE(status.st_mode) == 0o666
                assert "default" in await c.get("default")
        finally:
            os.umask(old)
        assert target.read_text() == "mine"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["directory", "long", "no directory"])
def test_a_socket_that_cannot_be_bound_is_one_sentence(tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        path = tmp_path / ("x" * 120 if kind == "long" else "socket")
        if kind == "directory":
            path.mkdir()
        elif kind == "no directory":
            (tmp_path / "file").write_text("")
            path = tmp_path / "file" / "socket"
        server = SdsServer(SdsConfig(socket_path=str(path)), Latest(None), Recorder())
        with pytest.raises(FatalError, match="socket") as e:
            await server.start()
        assert "\n" not in str(e.value)

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ with a real CA


def test_rotation_with_short_certificates_leaves_no_gap(tmp_path: Path) -> None:
    """The CA is away across one rotation of a few: a subscribed stream always holds a valid certificate."""

    async def main() -> None:
        with FakeCa() as ca:
            ca.answer = lasting(5.0)
            (tmp_path / "root.pem").write_bytes(ca.root.pem)
            (tmp_path / "token").write_text("t")
            peer = PeerConfig(
                (ca.address,), False, str(tmp_path / "root.pem"), SERVER_NAME, token_file=str(tmp_path / "token")
            )
            async with serving(tmp_path) as w:
                readiness = Latest(Readiness(True))
                manager = IdentityManager(
                    IdentityConfig(SPIFFE, peer, ecdsa=True, grace_ratio=0.9), w.secret, readiness, w.recorder
                )
                task = asyncio.ensure_future(manager.run())
                async with SdsClient(w.path) as c:
                    await c.ask("default")
                    leaves = [x509.load_pem_x509_certificate(chain(await c.follow("default")))]
                    while len(leaves) < 4:
                        if len(leaves) == 2:
                            await asyncio.to_thread(ca.stop)
                            await manager.status.until(lambda s: s.failures > 0)
                            async with SdsClient(w.path) as late:
                                assert "default" in await late.get("default"), "a new stream is served meanwhile"
                            await asyncio.to_thread(ca.start)
                        leaf = x509.load_pem_x509_certificate(chain(await c.follow("default")))
                        assert time.time() < leaves[-1].not_valid_after_utc.timestamp(), "renewed after expiry"
                        leaves.append(leaf)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert len({leaf.serial_number for leaf in leaves}) == 4

    asyncio.run(main())


def test_any_number_of_streams_costs_one_request_to_the_ca(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa() as ca:
            (tmp_path / "root.pem").write_bytes(ca.root.pem)
            (tmp_path / "token").write_text("t")
            peer = PeerConfig(
                (ca.address,), False, str(tmp_path / "root.pem"), SERVER_NAME, token_file=str(tmp_path / "token")
            )
            async with serving(tmp_path) as w, AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(SdsClient(w.path)) for _ in range(50)]
                for i, client in enumerate(clients):
                    await client.ask("default" if i % 2 else "ROOTCA")
                await eventually(lambda: w.server.streams == 50)
                config, ready = IdentityConfig(SPIFFE, peer, ecdsa=True), Latest(Readiness(True))
                manager = IdentityManager(config, w.secret, ready, w.recorder)
                task = asyncio.ensure_future(manager.run())
                got = [secrets(r) for r in await asyncio.gather(*(c.receive() for c in clients))]
                assert len({whole(s["default"]) for s in got if "default" in s}) == 1
                async with SdsClient(w.path) as late:
                    await late.get("default", "ROOTCA")
                assert len(ca.calls) == 1
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
