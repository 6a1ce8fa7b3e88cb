"""Our connections on real sockets: the dead, the frozen, the rude and the many."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest

from agent.rpc import frames
from agent.rpc.call import ServerCall
from agent.rpc.client import Link, attach
from agent.rpc.connection import MAX_HASTY, Connection
from agent.rpc.frames import ENHANCE_YOUR_CALM, GOAWAY, PING
from agent.rpc.sending import QUEUE, Limits
from agent.rpc.status import Code, Gone
from agent.rpc.stream import Stream
from tests.fakes.ca import Root
from tests.fakes.http2 import HELLO, REQUEST, RESPONSE, SETTINGS, Frame, data, headers, message, parse, sent
from tests.fakes.rpc import SECONDS, dialled, ended, everything, grpcio, pair, serving, until

KEEPALIVE = (0.2, 0.2)
DEAD = (Code.UNAVAILABLE, "keepalive ping failed to receive ACK within timeout")


async def echo(call: ServerCall) -> None:
    while (body := await call.read()) is not None:
        await call.write(body)


async def our_client(path: str, **more: object) -> Link:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    await asyncio.get_running_loop().sock_connect(sock, path)
    return attach(sock, "authority", "test/1", **more)  # type: ignore[arg-type]


async def bare(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    await asyncio.get_running_loop().sock_connect(sock, path)
    return sock


# -- The dead and the frozen


def test_a_silent_server_is_dead_after_interval_and_patience() -> None:
    async def go() -> None:
        link, theirs = pair(keepalive=KEEPALIVE)
        with theirs:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(theirs, SETTINGS)
            call = link.call("/t/x")
            started = loop.time()
            assert await ended(call.read()) == DEAD
            assert loop.time() - started >= sum(KEEPALIVE) - 0.01
            kinds = [f.kind for f in parse(await everything(theirs))]
            assert kinds.count(PING) == 1

    asyncio.run(go())


def test_the_interval_counts_from_the_last_byte() -> None:
    async def go() -> None:
        link, theirs = pair(keepalive=(0.4, 0.2))
        with theirs:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(theirs, SETTINGS)
            call = link.call("/t/x")
            for _ in range(12):  # longer than the interval together, each shorter
                await asyncio.sleep(0.1)
                await loop.sock_sendall(theirs, frames.window_update(0, 1))
            last = loop.time()
            async with asyncio.timeout(0.6 + 0.3):  # less than another interval
                assert await ended(call.read()) == DEAD
            assert loop.time() - last >= 0.59
            kinds = [f.kind for f in parse(await everything(theirs))]
            assert kinds.count(PING) == 1

    asyncio.run(go())


def test_a_server_that_answers_pings_may_be_silent() -> None:
    async def go() -> None:
        link, theirs = pair(keepalive=KEEPALIVE)
        with theirs:
            loop, server, pings = asyncio.get_running_loop(), Connection(False, Limits()), 0
            call = link.call("/t/x")
            while pings < 5:
                raw = await asyncio.wait_for(loop.sock_recv(theirs, 65_536), SECONDS)
                pings += sum(f.kind == PING for f in parse(raw))
                server.receive(raw)
                await loop.sock_sendall(theirs, sent(server))
            assert link._transport.connection.pongs >= 4
            call.cancel()
            await until(lambda: not link._transport.connection.streams)
            # Nobody asks about a connection without calls.
            assert parse(await loop.sock_recv(theirs, 65_536))[-1].kind == frames.RST_STREAM
            await asyncio.sleep(3 * KEEPALIVE[0])
            with pytest.raises(BlockingIOError):
                theirs.recv(65_536)
            link.close()

    asyncio.run(go())


SERVER = """
import sys, time, grpc
from concurrent.futures import ThreadPoolExecutor
class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(talk)
def talk(requests, context):
    yield b"begun"
    time.sleep(3600)
server = grpc.server(ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Methods(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_server_that_is_frozen_or_killed(how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())

        async def go() -> None:
            async with await dialled(port, keepalive=KEEPALIVE) as link:
                call = link.call("/t/x")
                assert await call.read() == b"begun"
                process.send_signal(how)
                code, text = await ended(call.read())
                assert code is Code.UNAVAILABLE
                assert text == DEAD[1] if how is signal.SIGSTOP else text

        try:
            asyncio.run(go())
        finally:
            process.kill()


def test_pings_in_proportion_to_istiods_rules_are_no_flood() -> None:
    """istiod allows a ping every 15 s, and we send one in 30 s; here fifty times as fast."""

    async def wait(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"begun"
        await asyncio.sleep(3600)

    async def go() -> None:
        options = {"grpc__http2__min_ping_interval_without_data_ms": 300, "grpc__http2__max_ping_strikes": 1}
        async with grpcio({"/t/x": wait}, None, **options) as port, await dialled(port, keepalive=(0.6, 0.5)) as link:
            call = link.call("/t/x")
            assert await call.read() == b"begun"
            await until(lambda: link._transport.connection.pongs >= 5)
            assert link._transport.connection.goaway == ""
            assert link._transport.open
            call.cancel()

    asyncio.run(go())


def test_a_server_that_finds_our_pings_too_many_says_so() -> None:
    async def wait(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"begun"
        await asyncio.sleep(3600)

    async def go() -> None:
        async with grpcio({"/t/x": wait}) as port, await dialled(port, keepalive=(0.5, 0.45)) as link:
            call = link.call("/t/x")
            assert await call.read() == b"begun"
            code, text = await ended(call.read())
            assert code is Code.UNAVAILABLE
            assert "many" in text

    asyncio.run(go())


def test_a_frozen_client_loses_its_calls(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def wait(call: ServerCall) -> None:
        try:
            await call.read()
        except (Gone, asyncio.CancelledError):
            left.set()
            raise

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/a/b": wait}, keepalive=KEEPALIVE) as server:
            with await bare(path) as client:
                await asyncio.get_running_loop().sock_sendall(client, HELLO + headers(1))
                await asyncio.wait_for(left.wait(), SECONDS)
                await until(lambda: server.connections == 0)

    asyncio.run(go())


# -- Ends within something


@pytest.mark.parametrize("rude", [False, True])
@pytest.mark.parametrize(
    ("last", "text"),
    [
        (b"", None),
        (headers(1, RESPONSE)[:20], None),
        (headers(1, RESPONSE) + data(1, message(bytes(100))[:50]), None),
        (headers(1, RESPONSE) + frames.goaway(1, 0, "restarting"), "NO_ERROR: restarting"),
    ],
)
def test_a_server_that_vanishes(last: bytes, text: str | None, rude: bool) -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            link = await dialled(listener.getsockname()[1])
            loop = asyncio.get_running_loop()
            theirs, _ = await loop.sock_accept(listener)
            call = link.call("/t/x")
            await loop.sock_recv(theirs, 65_536)
            await loop.sock_sendall(theirs, SETTINGS + last)
            await until(lambda: link.heard)
            if rude:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            code, found = await ended(call.read())
            assert code is Code.UNAVAILABLE
            usual = ("the connection was closed", "Connection reset by peer", "Broken pipe")
            assert text in found if text else found in usual
            assert not link._transport.open

    asyncio.run(go())


TOO_LONG = frames.encode_headers([(b":status", b"200"), (b"grpc-status", b"8"), (b"grpc-message", b"too long")])


@pytest.mark.parametrize(
    ("last", "code", "text"),
    [
        (headers(1, TOO_LONG, True), Code.RESOURCE_EXHAUSTED, "too long"),
        (frames.goaway(1, 0, "restarting"), Code.UNAVAILABLE, "GOAWAY received with error code: NO_ERROR: restarting"),
        (b"", Code.UNAVAILABLE, "Broken pipe"),
    ],
)
def test_what_the_server_said_last_counts_more_than_that_it_takes_no_more(last: bytes, code: Code, text: str) -> None:
    async def go() -> None:
        link, theirs = pair()
        await asyncio.get_running_loop().sock_sendall(theirs, SETTINGS)
        call = link.call("/t/x")
        await until(lambda: link.heard)
        theirs.setblocking(True)
        theirs.sendall(last)
        theirs.close()
        await call.write(b"this is tried before anything is read")
        assert await ended(call.read()) == (code, text)

    asyncio.run(go())


@pytest.mark.parametrize(
    "raw", [b"", HELLO[:10], HELLO + headers(1)[:15], HELLO + headers(1) + data(1, message(b"xyz"))[:11]]
)
def test_a_client_that_vanishes_within_anything(tmp_path: Path, raw: bytes) -> None:
    ends: list[str] = []

    async def wait(call: ServerCall) -> None:
        try:
            ends.append(repr(await call.read()))
        except (Gone, asyncio.CancelledError) as e:
            ends.append(type(e).__name__)
            raise

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/a/b": wait}) as server:
            client = await bare(path)
            await asyncio.get_running_loop().sock_sendall(client, raw)
            await until(lambda: server.connections == 1)
            client.close()
            await until(lambda: server.connections == 0)
            await until(lambda: len(asyncio.all_tasks()) == 2)
        assert ends in ([], ["CancelledError"])

    asyncio.run(go())


def test_a_client_that_vanishes_while_we_wait_to_write(tmp_path: Path) -> None:
    """Who gets its file descriptor next inherits nothing."""

    async def pour(call: ServerCall) -> None:
        while True:
            await call.write(bytes(50_000))

    async def go() -> None:
        path = str(tmp_path / "s")
        wide = frames.settings([(4, frames.MAX_WINDOW)]) + frames.window_update(0, frames.MAX_WINDOW - 65_535)
        async with serving(path, {"/a/b": pour, "/t/echo": echo}) as server:
            for _ in range(3):
                with await bare(path) as client:
                    await asyncio.get_running_loop().sock_sendall(client, frames.PREFACE + wide + headers(1))
                    await until(lambda: any(t._writing for t in server._transports))
                await until(lambda: server.connections == 0)
                async with await our_client(path) as link:
                    assert await link.unary("/t/echo", bytes(1 << 20), timeout=SECONDS) == bytes(1 << 20)
                await until(lambda: server.connections == 0)

    asyncio.run(go())


# -- The rude


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", frames.PROTOCOL_ERROR),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", frames.PROTOCOL_ERROR),
        (HELLO + bytes.fromhex("ffffff000000000001"), frames.FRAME_SIZE_ERROR),
        (HELLO + frames.frame(PING, 0, 0, b"short"), frames.FRAME_SIZE_ERROR),
    ],
)
def test_who_breaks_the_rules_is_told_and_shown_out(tmp_path: Path, raw: bytes, error: int) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/echo": echo}) as server:
            with await bare(path) as client:
                await asyncio.get_running_loop().sock_sendall(client, raw)
                last = parse(await everything(client))[-1]
                assert (last.kind, last.number) == (GOAWAY, error)
            await until(lambda: server.connections == 0)
            async with await our_client(path) as link:
                assert await link.unary("/t/echo", b"x") == b"x"

    asyncio.run(go())


@pytest.mark.parametrize(
    "pairs",
    [
        [(b":method", b"GET"), (b":path", b"/t/echo"), (b"content-type", b"application/grpc")],
        [(b":method", b"POST"), (b":path", b"/t/echo"), (b"content-type", b"text/plain")],
        [(b":method", b"POST"), (b":path", b"/t/echo")],
    ],
)
def test_a_request_that_is_not_grpc(tmp_path: Path, pairs: list[tuple[bytes, bytes]]) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/echo": echo}):
            with await bare(path) as client:
                loop, connection = asyncio.get_running_loop(), Connection(True, Limits())
                stream = connection.open(frames.encode_headers(pairs))
                assert stream is not None
                await loop.sock_sendall(client, sent(connection))
                while stream.end is None:
                    connection.receive(await loop.sock_recv(client, 65_536))
                assert stream.headers == {b":status": b"415"}

    asyncio.run(go())


async def status(client: socket.socket, connection: Connection, stream: Stream) -> tuple[Code, str]:
    """How a call ends that a client makes by hand."""
    async with asyncio.timeout(SECONDS):
        while stream.end is None:
            connection.receive(await asyncio.get_running_loop().sock_recv(client, 1 << 20))
            stream.inbox.messages.clear()
            connection.took(stream)
            await asyncio.get_running_loop().sock_sendall(client, sent(connection))
    return stream.end


@pytest.mark.parametrize(
    ("timeout", "code", "text"),
    [
        (b"100m", Code.DEADLINE_EXCEEDED, "the deadline of the call is over"),
        (b"0n", Code.DEADLINE_EXCEEDED, "the deadline of the call is over"),
        (b"soon", Code.INTERNAL, "grpc-timeout must be up to eight digits and a unit"),
    ],
)
def test_a_deadline_that_only_we_keep(tmp_path: Path, timeout: bytes, code: Code, text: str) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/a/b": echo}):
            with await bare(path) as client:
                connection = Connection(True, Limits())
                stream = connection.open(REQUEST + frames.encode_headers([(b"grpc-timeout", timeout)]))
                assert stream is not None
                await asyncio.get_running_loop().sock_sendall(client, sent(connection))
                assert await status(client, connection, stream) == (code, text)

    asyncio.run(go())


@pytest.mark.parametrize("busy", ["reading", "writing"])
def test_a_bad_message_ends_a_call_whatever_it_is_about(tmp_path: Path, busy: str) -> None:
    async def work(call: ServerCall) -> None:
        await call.write(b"begun")
        while busy == "writing" or await call.read() is not None:
            await call.write(bytes(1 << 20))

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/a/b": work}, Limits(message=1000)) as server:
            with await bare(path) as client:
                loop, connection = asyncio.get_running_loop(), Connection(True, Limits(window=65_535))
                stream = connection.open(REQUEST)
                assert stream is not None
                await loop.sock_sendall(client, sent(connection))
                await until(lambda: server._transports and next(iter(server._transports)).connection.streams)
                await loop.sock_sendall(client, data(1, message(bytes(1001))))
                assert (await status(client, connection, stream))[0] is Code.RESOURCE_EXHAUSTED
                await until(lambda: len(asyncio.all_tasks()) == 2)

    asyncio.run(go())


FLOODS = {
    "pings": frames.frame(PING, 0, 0, bytes(8)) * 300_000,
    "settings": SETTINGS * 400_000,
    "requests": b"".join(headers(n, REQUEST) for n in range(1, 60_000, 2)),  # of a method that there is not
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_from_a_client_that_does_not_read(tmp_path: Path, name: str) -> None:
    """We stop reading rather than keep the answers; everybody else is served, and so is this one once it reads."""

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/echo": echo}) as server:
            with await bare(path) as client:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, HELLO)
                await until(lambda: server.connections == 1)
                (transport,) = server._transports
                raw, position = FLOODS[name], 0
                while position < len(raw) and transport._reading:
                    try:
                        position += client.send(raw[position : position + 65_536])
                    except BlockingIOError:
                        await asyncio.sleep(0)
                    assert transport.connection.queued < 4 * QUEUE
                assert not transport._reading
                async with await our_client(path) as link:
                    assert await link.unary("/t/echo", b"x") == b"x"
                assert transport.connection.queued < 4 * QUEUE
                async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
                    writing = group.create_task(loop.sock_sendall(client, raw[position:]))
                    while not (writing.done() and transport._reading):
                        await loop.sock_recv(client, 1 << 20)
                assert transport.open

    asyncio.run(go())


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_flood_from_a_server_that_does_not_read(tmp_path: Path, over_tls: bool) -> None:
    """We stop reading, also where records wait, and go on where it stopped."""

    async def go() -> None:
        root, name = Root(), "server.test"
        loop, flood = asyncio.get_running_loop(), SETTINGS + frames.frame(PING, 0, 0, bytes(8)) * 200_000
        trusting = ssl.create_default_context(cadata=root.pem.decode())
        trusting.set_alpn_protocols(["h2"])
        showing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = tmp_path / "server.pem"
        file.write_bytes(b"".join(root.server(name)))
        showing.load_cert_chain(file)
        showing.set_alpn_protocols(["h2"])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            accepting = asyncio.ensure_future(asyncio.to_thread(accepted, listener, showing if over_tls else None))
            link = await dialled(listener.getsockname()[1], trusting if over_tls else None, name)
            theirs = await accepting
        call, transport = link.call("/t/x"), link._transport
        transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        try:
            pouring = asyncio.ensure_future(asyncio.to_thread(theirs.sendall, flood))
            await until(lambda: not transport._reading)
            assert transport.connection.queued < 4 * QUEUE
            pongs = 0
            rest = b""
            async with asyncio.timeout(SECONDS):
                while pongs < 200_000:
                    rest += await asyncio.to_thread(theirs.recv, 1 << 20)
                    rest, position = rest.removeprefix(frames.PREFACE), 0
                    while len(rest) >= position + 9 and len(rest) >= position + 9 + rest[position + 2]:  # all are short
                        pongs += rest[position + 3] == PING
                        position += 9 + rest[position + 2]
                    rest = rest[position:]
            await pouring
            await until(lambda: transport._reading)
            call.cancel()
            assert await loop.run_in_executor(None, theirs.recv, 1000)
        finally:
            link.close(now=True)
            theirs.close()

    asyncio.run(go())


def accepted(listener: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    sock, _ = listener.accept()
    return context.wrap_socket(sock, server_side=True) if context else sock


def test_calls_that_are_reset_at_once_end_the_connection(tmp_path: Path) -> None:
    begun = 0

    async def wait(call: ServerCall) -> None:
        nonlocal begun
        begun += 1
        await call.read()

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/a/b": wait, "/t/echo": echo}, Limits(streams=100)) as server:
            with await bare(path) as client:
                block = b"\x83\x86" + frames.encode_headers(
                    [(b":path", b"/a/b"), (b"content-type", b"application/grpc")]
                )
                flood = [headers(n, block) + frames.rst_stream(n, 8) for n in range(1, 4 * MAX_HASTY, 2)]
                raw = memoryview(HELLO + b"".join(flood))
                most = 0
                while raw and server.connections in (0, 1):
                    try:
                        raw = raw[client.send(raw) :]
                    except (BlockingIOError, BrokenPipeError):
                        await asyncio.sleep(0)
                    most = max(most, len(asyncio.all_tasks()))
                    if begun and server.connections == 0:
                        break
                last = parse(await everything(client))[-1]
                assert (last.kind, last.number) == (GOAWAY, ENHANCE_YOUR_CALM)
                assert most < 2 * MAX_HASTY
            await until(lambda: len(asyncio.all_tasks()) == 2)
            async with await our_client(path) as link:
                assert await link.unary("/t/echo", b"x") == b"x"

    asyncio.run(go())


def test_a_busy_connection_leaves_others_their_turn(tmp_path: Path) -> None:
    async def swallow(call: ServerCall) -> None:
        while await call.read() is not None:
            continue

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/swallow": swallow, "/t/echo": echo}):  # noqa: SIM117
            async with await our_client(path) as busy, await our_client(path) as other:
                call = busy.call("/t/swallow")
                done = 0

                async def pour() -> None:
                    nonlocal done
                    for _ in range(40):
                        await call.write(bytes(5 << 20))
                        done += 1

                async with asyncio.TaskGroup() as group:
                    task = group.create_task(pour())
                    asked = 0
                    while not task.done():
                        assert await other.unary("/t/echo", b"x") == b"x"
                        asked += 1
                    assert done == 40
                assert asked > 20

    asyncio.run(go())


# -- The many


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_of_three_hundred_connections(tmp_path: Path) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/echo": echo}) as server:
            async with await our_client(path) as link:
                assert await link.unary("/t/echo", b"x") == b"x"
            await until(lambda: server.connections == 0)
            before, tasks = handles(), len(asyncio.all_tasks())
            for number in range(300):
                link = await our_client(path, keepalive=(30.0, 10.0))
                call = link.call("/t/echo")
                if number % 3:
                    await call.write(bytes(1000 * (number % 50)))
                    await call.read()
                if number % 5 == 0:
                    call.cancel()
                link.close(now=number % 2 == 0)
            await until(lambda: server.connections == 0)
            await until(lambda: handles() == before)
            await until(lambda: len(asyncio.all_tasks()) == tasks)

    asyncio.run(go())


def test_three_hundred_connections_at_once(tmp_path: Path) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/echo": echo}) as server:
            links = [await our_client(path) for _ in range(300)]
            calls = [link.call("/t/echo") for link in links]
            for call in calls:
                await call.write(b"x")
            assert [await call.read() for call in calls] == [b"x"] * 300
            assert server.connections == 300
            for link in links:
                link.close()

    asyncio.run(go())


def test_no_file_descriptor_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever comes meanwhile waits in the backlog; it is told, and it is no busy loop."""

    async def go() -> None:
        path = str(tmp_path / "s")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with serving(path, {"/t/echo": echo}):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            fillers: list[int] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 10, hard))
            try:
                with suppress(OSError):
                    while True:
                        fillers.append(os.dup(0))
                client.connect(path)
                await until(lambda: caplog.records)
                used = time.process_time()
                await asyncio.sleep(0.3)
                assert time.process_time() - used < 0.2
            finally:
                for filler in fillers:
                    os.close(filler)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with attach(client, "authority", "test/1") as link:
                assert await asyncio.wait_for(link.unary("/t/echo", b"x"), SECONDS) == b"x"
        assert [r.getMessage() for r in caplog.records] == ["no connection can be accepted: Too many open files"]

    asyncio.run(go())


def test_the_end_waits_a_moment_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    """What was written before the end arrives if the client reads in time; if not, the socket is closed as well."""

    async def pour(call: ServerCall) -> None:
        while True:
            await call.write(bytes(50_000))

    async def go() -> None:
        path, loop = str(tmp_path / "s"), asyncio.get_running_loop()
        wide = frames.settings([(4, frames.MAX_WINDOW)]) + frames.window_update(0, frames.MAX_WINDOW - 65_535)
        before = handles()
        async with serving(path, {"/a/b": pour}) as server:
            patient, stubborn = [await bare(path) for _ in range(2)]
            for client in (patient, stubborn):
                await loop.sock_sendall(client, frames.PREFACE + wide + headers(1))
            await until(lambda: len(server._transports) == 2 and all(t._writing for t in server._transports))
        with patient, stubborn:
            found = parse(await everything(patient))
            assert Frame(GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\0the server ends") in found
            await until(lambda: server.connections == 0)
        assert handles() == before

    asyncio.run(go())
