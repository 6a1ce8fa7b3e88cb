"""Our gRPC and Google's, each as client and as server of the other."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest

from agent.rpc.call import ClientCall, ServerCall
from agent.rpc.sending import Limits
from agent.rpc.server import Handler, Server
from agent.rpc.status import Code, Gone, RpcError
from tests.fakes.http2 import headers
from tests.fakes.rpc import SECONDS, Methods, channel, dialled, ended, grpcio, serving, until

LENGTHS = [0, 1, 5, 1000, 16_379, 16_380, 65_531, 65_530, 1 << 20, 5 << 20]
EOF = grpc.aio.EOF


def body(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# -- Google's client, our server


async def echo(call: ServerCall) -> None:
    while (message := await call.read()) is not None:
        await call.write(message)


async def collect(call: ServerCall) -> None:
    """Answer when the client has half-closed."""
    total = 0
    while (message := await call.read()) is not None:
        total += len(message)
    await call.write(str(total).encode())
    await call.write(b"done")


async def refuse(call: ServerCall) -> None:
    raise RpcError(Code.PERMISSION_DENIED, "bitte nicht – 100 % «verboten» 🚫")


async def fail(call: ServerCall) -> None:
    raise ZeroDivisionError("a secret of ours")


ROUTES: dict[str, Handler] = {"/t/echo": echo, "/t/collect": collect, "/t/refuse": refuse, "/t/fail": fail}


def test_messages_of_every_length(tmp_path: Path) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, ROUTES), channel(f"unix:{path}") as client:
            call = client.stream_stream("/t/echo")()
            for length in LENGTHS:
                await call.write(body(length))
                assert await call.read() == body(length)
            await call.done_writing()
            assert await call.read() is EOF
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(go())


def test_sixty_megabytes_both_ways(tmp_path: Path) -> None:
    async def go() -> None:
        path, large = str(tmp_path / "s"), body(60 << 20)
        async with serving(path, ROUTES), channel(f"unix:{path}") as client:
            call = client.stream_stream("/t/echo")()
            await call.write(large)
            assert await call.read() == large
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(go())


def test_the_synchronous_client(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    def calls() -> None:
        with grpc.insecure_channel(f"unix:{path}") as client:
            assert client.unary_unary("/t/echo")(b"hello", timeout=SECONDS) == b"hello"
            assert list(client.stream_stream("/t/echo")(iter([b"a", b"b"]), timeout=SECONDS)) == [b"a", b"b"]
            with pytest.raises(grpc.RpcError) as caught:
                client.unary_unary("/t/refuse")(b"", timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    async def go() -> None:
        async with serving(path, ROUTES):
            with ThreadPoolExecutor(1) as threads:
                await asyncio.get_running_loop().run_in_executor(threads, calls)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        ("/t/refuse", grpc.StatusCode.PERMISSION_DENIED, "bitte nicht – 100 % «verboten» 🚫"),
        ("/t/fail", grpc.StatusCode.INTERNAL, "the call failed in the agent"),
        ("/t/none", grpc.StatusCode.UNIMPLEMENTED, "unknown method /t/none"),
    ],
)
def test_a_status(tmp_path: Path, method: str, code: grpc.StatusCode, text: str) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, ROUTES), channel(f"unix:{path}") as client:
            for _ in range(2):  # the connection survives it
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.unary_unary(method)(b"", timeout=SECONDS)
                assert (caught.value.code(), caught.value.details()) == (code, text)
            assert await client.unary_unary("/t/echo")(b"x", timeout=SECONDS) == b"x"

    asyncio.run(go())


@pytest.mark.parametrize("character", ["x", "ü", "🚫"])
def test_a_long_status_fits_every_client(tmp_path: Path, character: str) -> None:
    async def long(call: ServerCall) -> None:
        raise RpcError(Code.ABORTED, character * 5000)

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/long": long}), channel(f"unix:{path}") as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.unary_unary("/t/long")(b"", timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.ABORTED
            assert set(caught.value.details() or "") == {character}

    asyncio.run(go())


def test_a_client_that_half_closes_gets_its_answer(tmp_path: Path) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, ROUTES), channel(f"unix:{path}") as client:
            call = client.stream_stream("/t/collect")()
            for _ in range(10):
                await call.write(bytes(30_000))
            await call.done_writing()
            assert [await call.read() for _ in range(3)] == [b"300000", b"done", EOF]

    asyncio.run(go())


def test_a_hundred_calls_at_once(tmp_path: Path) -> None:
    async def one(client: grpc.aio.Channel, number: int) -> None:
        call = client.stream_stream("/t/echo")()
        for turn in range(5):
            message = b"%d.%d." % (number, turn) + body(number * 300)
            await call.write(message)
            assert await call.read() == message
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, ROUTES) as server, channel(f"unix:{path}") as client:
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(one(client, number))
            assert server.connections == 1

    asyncio.run(go())


def test_more_calls_than_allowed_wait_or_fail(tmp_path: Path) -> None:
    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, ROUTES, Limits(streams=3)), channel(f"unix:{path}") as client:
            calls = [client.stream_stream("/t/echo")() for _ in range(3)]
            for call in calls:
                await call.write(b"x")
                assert await call.read() == b"x"
            later = client.unary_unary("/t/echo")(b"y", timeout=SECONDS)  # Google's client keeps it back
            calls[0].cancel()
            assert await later == b"y"

    asyncio.run(go())


def test_a_client_that_cancels(tmp_path: Path) -> None:
    ends: list[str] = []

    async def wait(call: ServerCall) -> None:
        await call.write(b"begun")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ends.append("cancelled" if call.gone else "stopped")
            raise

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/wait": wait, **ROUTES}), channel(f"unix:{path}") as client:
            for _ in range(3):
                call = client.stream_stream("/t/wait")()
                assert await call.read() == b"begun"
                call.cancel()
            await until(lambda: len(ends) == 3)
            assert await client.unary_unary("/t/echo")(b"x", timeout=SECONDS) == b"x"
        assert ends == ["cancelled"] * 3

    asyncio.run(go())


@pytest.mark.parametrize("busy", ["reading", "writing"])
def test_a_client_that_vanishes(tmp_path: Path, busy: str) -> None:
    """Its end cancels whatever the handler does, and leaves nothing behind."""
    left = asyncio.Event()

    async def work(call: ServerCall) -> None:
        try:
            await call.write(b"begun")
            while busy == "writing" or await call.read() is not None:
                await call.write(bytes(1 << 20))
        except (Gone, asyncio.CancelledError):
            left.set()
            raise

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/work": work}) as server:
            async with channel(f"unix:{path}") as client:
                call = client.stream_stream("/t/work")()
                assert await call.read() == b"begun"
            del call, client  # which hold the connection
            await asyncio.wait_for(left.wait(), SECONDS)
            await until(lambda: server.connections == 0)

    asyncio.run(go())


def test_deadlines(tmp_path: Path) -> None:
    ends: list[bool] = []

    async def wait(call: ServerCall) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append(True)

    async def slow(call: ServerCall) -> None:
        raise TimeoutError("of something else")

    async def go() -> None:
        path = str(tmp_path / "s")
        async with serving(path, {"/t/wait": wait, "/t/slow": slow}), channel(f"unix:{path}") as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.unary_unary("/t/wait")(b"", timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: ends)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.unary_unary("/t/slow")(b"", timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.INTERNAL  # no deadline of the call's

    asyncio.run(go())


def test_a_server_that_ends(tmp_path: Path) -> None:
    ends: list[str] = []

    async def wait(call: ServerCall) -> None:
        await call.write(b"begun")
        try:
            await asyncio.sleep(3600)
        finally:
            ends.append("ended")

    async def go() -> None:
        path = str(tmp_path / "s")
        async with channel(f"unix:{path}") as client:
            async with serving(path, {"/t/wait": wait}) as server:
                calls = [client.stream_stream("/t/wait")() for _ in range(3)]
                for call in calls:
                    assert await call.read() == b"begun"
            for call in calls:
                assert await asyncio.wait_for(call.code(), SECONDS) is grpc.StatusCode.UNAVAILABLE
                assert await call.details() == "the server ends"
            assert ends == ["ended"] * 3
            await until(lambda: server.connections == 0)

    asyncio.run(go())
    assert not list(tmp_path.iterdir())


def test_calls_that_come_while_the_server_ends(tmp_path: Path) -> None:
    """A handler that takes its time to end: whoever calls meanwhile is refused, nothing fails in the loop."""
    errors: list[dict[str, Any]] = []
    ending, end = asyncio.Event(), asyncio.Event()

    async def stubborn(call: ServerCall) -> None:
        await call.write(b"begun")
        try:
            await asyncio.sleep(3600)
        finally:
            ending.set()
            await end.wait()

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        path = str(tmp_path / "s")
        server = Server({"/t/stubborn": stubborn, **ROUTES}, Limits())
        server.bind(path)
        async with channel(f"unix:{path}", grpc__enable_retries=0) as client, asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            first = client.stream_stream("/t/stubborn")()
            assert await first.read() == b"begun"
            (transport,) = server._transports
            stream = transport.connection._highest
            task.cancel()
            await asyncio.wait_for(ending.wait(), SECONDS)
            transport.connection.receive(headers(stream + 2))  # on its way before the client heard of the end
            assert transport.connection.broken is None
            late = client.stream_stream("/t/echo")()
            assert await asyncio.wait_for(late.code(), SECONDS) is grpc.StatusCode.UNAVAILABLE
            assert not task.done()
            end.set()
            assert await asyncio.wait_for(first.code(), SECONDS) is grpc.StatusCode.UNAVAILABLE
        assert errors == []

    asyncio.run(go())


def test_the_socket_is_open_to_everybody(tmp_path: Path) -> None:
    async def go() -> None:
        path = str(tmp_path / "deep" / "s")
        async with serving(path, ROUTES):
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
            assert stat.S_ISSOCK(os.stat(path).st_mode)

    mask = os.umask(0o077)
    try:
        asyncio.run(go())
    finally:
        os.umask(mask)


def test_a_client_that_does_not_read_costs_a_window(tmp_path: Path) -> None:
    written = 0

    async def pour(call: ServerCall) -> None:
        nonlocal written
        while True:
            await call.write(bytes(100_000))
            written += 1

    async def go() -> None:
        path = str(tmp_path / "s")
        routes = {"/t/pour": pour, **ROUTES}
        async with serving(path, routes), channel(f"unix:{path}", grpc__http2__bdp_probe=0) as client:
            calls = [client.stream_stream("/t/pour")() for _ in range(3)]
            for call in calls:
                assert await call.read() == bytes(100_000)
            before = psutil.Process().memory_info().rss
            seen = -1
            while seen != written:  # until nothing moves
                seen = written
                await asyncio.sleep(0.2)
            assert written * 100_000 < 20 << 20
            assert psutil.Process().memory_info().rss - before < 60 << 20
            for call in calls:
                assert await call.read() == bytes(100_000)
                call.cancel()

    asyncio.run(go())


def test_a_handler_that_does_not_read_costs_a_window(tmp_path: Path) -> None:
    """Also: a call that stands still delays no other one of its connection."""
    release = asyncio.Event()

    async def lazy(call: ServerCall) -> None:
        await release.wait()
        await collect(call)

    async def go() -> None:
        path, window = str(tmp_path / "s"), 200_000
        async with serving(path, {"/t/lazy": lazy, **ROUTES}, Limits(window=window)), channel(f"unix:{path}") as client:
            call = client.stream_stream("/t/lazy")()
            sent = 0

            async def push() -> None:
                nonlocal sent
                for _ in range(100):
                    await call.write(bytes(50_000))
                    sent += 50_000
                await call.done_writing()

            async with asyncio.TaskGroup() as group:
                group.create_task(push())
                seen = -1
                while seen != sent:
                    seen = sent
                    await asyncio.sleep(0.2)
                assert sent < 2 << 20, "the client could send what nobody reads"
                for length in (10, 1 << 20):
                    answer = await client.unary_unary("/t/echo")(body(length), timeout=SECONDS)
                    assert answer == body(length)
                release.set()
            assert await call.read() == b"5000000"

    asyncio.run(go())


# -- Our client, Google's server


async def echoed(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    async for message in requests:
        yield message


async def refused(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    await context.abort(grpc.StatusCode.NOT_FOUND, "gibt es nicht – 100 % 🚫")
    yield b""


async def described(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    for name, value in context.invocation_metadata() or ():
        yield name.encode() + b"=" + (value if isinstance(value, bytes) else value.encode())
    yield str(context.time_remaining()).encode()


async def counted(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    total = 0
    async for message in requests:
        total += len(message)
    yield str(total).encode()


async def two(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    yield b"1"
    yield b"2"


async def none(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    for message in ():
        yield message


METHODS = {
    "/t/echo": echoed,
    "/t/refuse": refused,
    "/t/describe": described,
    "/t/count": counted,
    "/t/two": two,
    "/t/none": none,
}


async def rest(call: ClientCall) -> list[bytes]:
    found = []
    while (message := await call.read()) is not None:
        found.append(message)
    return found


def test_our_client_sends_messages_of_every_length() -> None:
    async def go() -> None:
        async with grpcio(METHODS) as port, await dialled(port) as link:
            call = link.call("/t/echo")
            for length in LENGTHS:
                await call.write(body(length))
                assert await call.read() == body(length)
            call.finish()
            assert await rest(call) == []
            assert link.heard

    asyncio.run(go())


@pytest.mark.parametrize("views", [False, True])
def test_our_client_takes_sixty_megabytes(views: bool) -> None:
    async def go() -> None:
        large = body(60 << 20)
        async with grpcio(METHODS) as port, await dialled(port, limits=Limits(views=views)) as link:
            call = link.call("/t/echo")
            async with asyncio.TaskGroup() as group:
                group.create_task(call.write(large))
                found = await (call.read_view() if views else call.read())
            assert found == large

    asyncio.run(go())


def test_unary_calls() -> None:
    async def go() -> None:
        async with grpcio(METHODS) as port, await dialled(port) as link:
            assert await link.unary("/t/echo", b"hello", timeout=SECONDS) == b"hello"
            for method, code, text in [
                ("/t/refuse", Code.NOT_FOUND, "gibt es nicht – 100 % 🚫"),
                ("/t/unknown", Code.UNIMPLEMENTED, "Method not found!"),
                ("/t/two", Code.INTERNAL, "the server did not give one message as its answer"),
                ("/t/none", Code.INTERNAL, "the server did not give one message as its answer"),
            ]:
                assert await ended(link.unary(method, b"hello")) == (code, text)
            assert await link.unary("/t/count", bytes(3 << 20)) == str(3 << 20).encode()

    asyncio.run(go())


def test_metadata_and_what_every_call_has() -> None:
    async def go() -> None:
        async with grpcio(METHODS) as port, await dialled(port) as link:
            metadata = [("clusterid", "Kubernetes"), ("authorization", "Bearer abc"), ("long", "y" * 5000)]
            call = link.call("/t/describe", metadata, timeout=50.0)
            call.finish()
            *found, remaining = await rest(call)
            assert {b"clusterid=Kubernetes", b"authorization=Bearer abc", b"long=" + b"y" * 5000} <= set(found)
            assert any(f.startswith(b"user-agent=test/1") for f in found)
            assert 40 < float(remaining) <= 50

    asyncio.run(go())


def test_our_client_has_a_hundred_calls_at_once() -> None:
    async def go() -> None:
        async with grpcio(METHODS) as port, await dialled(port) as link:

            async def one(number: int) -> None:
                call = link.call("/t/echo")
                for turn in range(5):
                    await call.write(body(number * 500 + turn))
                    assert await call.read() == body(number * 500 + turn)
                call.finish()
                assert await rest(call) == []

            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(one(number))

    asyncio.run(go())


def test_the_servers_limit_of_calls_is_told_at_once() -> None:
    async def go() -> None:
        async with grpcio(METHODS, grpc__max_concurrent_streams=2) as port, await dialled(port) as link:
            assert await link.unary("/t/echo", b"x") == b"x"
            calls = [link.call("/t/echo") for _ in range(2)]
            with pytest.raises(RpcError) as caught:
                link.call("/t/echo")
            assert caught.value.code is Code.UNAVAILABLE
            calls[0].cancel()
            answer = b""
            while not answer:
                try:
                    answer = await link.unary("/t/echo", b"x")
                except RpcError as e:  # the server has not done away with the first yet
                    if "REFUSED_STREAM" not in e.message:
                        raise
                    await asyncio.sleep(0.01)

    asyncio.run(go())


def test_our_client_cancels() -> None:
    left = asyncio.Event()

    async def wait(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        context.add_done_callback(lambda _: left.set())
        yield b"begun"
        await asyncio.sleep(3600)

    async def go() -> None:
        async with grpcio({"/t/wait": wait, **METHODS}) as port, await dialled(port) as link:
            call = link.call("/t/wait")
            assert await call.read() == b"begun"
            call.cancel()
            assert await ended(call.read()) == (Code.CANCELLED, "the call was cancelled here")
            assert (await ended(call.write(b"late")))[0] is Code.CANCELLED
            call.cancel()
            await asyncio.wait_for(left.wait(), SECONDS)
            assert await link.unary("/t/echo", b"x") == b"x"

    asyncio.run(go())


def test_whoever_gives_up_a_unary_call_ends_it() -> None:
    left = asyncio.Event()

    async def wait(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        context.add_done_callback(lambda _: left.set())
        await asyncio.sleep(3600)
        yield b""

    async def go() -> None:
        async with grpcio({"/t/wait": wait}) as port, await dialled(port) as link:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(link.unary("/t/wait", b""), 0.2)
            await asyncio.wait_for(left.wait(), SECONDS)
            assert not link._transport.connection.streams

    asyncio.run(go())


def test_our_deadlines() -> None:
    async def wait(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    async def go() -> None:
        async with grpcio({"/t/wait": wait, **METHODS}) as port, await dialled(port) as link:
            code, _ = await ended(link.unary("/t/wait", b"", timeout=0.2))
            assert code is Code.DEADLINE_EXCEEDED
            assert await link.unary("/t/echo", b"x") == b"x"

    asyncio.run(go())


def test_a_server_that_answers_before_it_has_heard_all() -> None:
    """What it says counts, not that the rest could not be sent any more."""

    async def quick(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"enough"

    async def strict(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too long")
        yield b""

    async def go() -> None:
        async with grpcio({"/t/quick": quick, "/t/strict": strict}) as port, await dialled(port) as link:
            assert await link.unary("/t/quick", bytes(30 << 20), timeout=SECONDS) == b"enough"
            answer = link.unary("/t/strict", bytes(30 << 20), timeout=SECONDS)
            assert await ended(answer) == (Code.RESOURCE_EXHAUSTED, "too long")

    asyncio.run(go())


def test_our_slow_reader_costs_a_window() -> None:
    async def pour(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    async def go() -> None:
        limits = Limits(window=1 << 20)
        async with grpcio({"/t/pour": pour, **METHODS}) as port, await dialled(port, limits=limits) as link:
            call = link.call("/t/pour")
            assert await call.read() == bytes(100_000)
            stream = call._stream
            await until(lambda: stream.recv_window < 100_005)
            assert await link.unary("/t/echo", body(3 << 20), timeout=SECONDS) == body(3 << 20)
            assert stream.inbox.held <= 1 << 20
            for _ in range(50):
                assert await call.read() == bytes(100_000)
            call.cancel()

    asyncio.run(go())


def test_a_server_that_says_goodbye() -> None:
    """A graceful stop: the call under way ends well, a new one is refused with the reason."""
    release = asyncio.Event()

    async def wait(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"begun"
        await release.wait()
        yield b"finished"

    async def go() -> None:
        async with asyncio.TaskGroup() as group:
            server = grpc.aio.server()
            server.add_generic_rpc_handlers((Methods({"/t/wait": wait}),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with await dialled(port) as link:
                call = link.call("/t/wait")
                assert await call.read() == b"begun"
                group.create_task(server.stop(SECONDS))
                await until(lambda: link._transport.connection.goaway)
                with pytest.raises(RpcError) as caught:
                    link.call("/t/wait")
                assert caught.value.code is Code.UNAVAILABLE
                assert "GOAWAY" in caught.value.message
                release.set()
                assert await rest(call) == [b"finished"]

    asyncio.run(go())
