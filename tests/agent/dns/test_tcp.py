import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agent.dns import tcp
from agent.dns.tcp import TcpService

QUERY = bytes(range(20))


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def echo(query: bytes) -> bytes | None:
    return None if query.startswith(b"quiet") else query[::-1]


Client = Callable[[TcpService, tuple[str, int]], Coroutine[Any, Any, None]]


def play(client: Client, answer: tcp.Answerer = echo, idle: float = 10.0) -> None:
    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        service = TcpService(answer, idle)
        with listener:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(service.serve(listener))
                await asyncio.wait_for(client(service, listener.getsockname()), 20)
                serving.cancel()
        assert service.connections == set()

    asyncio.run(main())


async def read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def test_messages_in_one_write_and_in_single_bytes() -> None:
    async def client(service: TcpService, where: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(framed(QUERY) * 3 + framed(b"quiet" + bytes(20)))
        assert [await read(reader) for _ in range(3)] == [QUERY[::-1]] * 3
        for byte in framed(QUERY):
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)
        assert await read(reader) == QUERY[::-1]
        writer.close()

    play(client)


def test_a_slow_answer_does_not_hold_up_the_next() -> None:
    release = asyncio.Event()

    async def slow(query: bytes) -> bytes:
        await release.wait()
        return query

    def answer(query: bytes) -> tcp.Reply:
        return slow(query) if query.startswith(b"slow") else query

    async def client(service: TcpService, where: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(framed(b"slow" + QUERY) + framed(QUERY))
        assert await read(reader) == QUERY
        writer.write_eof()  # half-closed clients still get what they asked for
        release.set()
        assert await read(reader) == b"slow" + QUERY
        assert await reader.read() == b""
        writer.close()

    play(client, answer)


@pytest.mark.parametrize("sent", [b"", b"\0", framed(QUERY)[:-1]])
def test_a_client_that_takes_too_long_is_let_go(sent: bytes) -> None:
    async def client(service: TcpService, where: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()

    play(client, idle=0.1)


def test_what_is_too_short_for_dns_ends_the_connection() -> None:
    async def client(service: TcpService, where: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(framed(b"hello"))
        assert await reader.read() == b""
        writer.close()

    play(client)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "MAX_CONNECTIONS", 3)

    async def client(service: TcpService, where: tuple[str, int]) -> None:
        kept = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*where)
            writer.write(framed(QUERY))
            assert await read(reader) == QUERY[::-1]
            kept.append(writer)
        reader, writer = await asyncio.open_connection(*where)
        assert await reader.read() == b""
        for open_one in (writer, *kept):
            open_one.close()
        while service.connections:
            await asyncio.sleep(0.01)

    play(client)


def test_a_client_that_vanishes_while_its_answer_is_made_is_no_trouble() -> None:
    async def answer(query: bytes) -> bytes:
        await asyncio.sleep(0.05)
        return query * 3000

    async def client(service: TcpService, where: tuple[str, int]) -> None:
        _, writer = await asyncio.open_connection(*where)
        writer.write(framed(QUERY) * 5)
        await writer.drain()
        writer.transport.abort()
        while service.connections:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*where)
        writer.write(framed(QUERY))
        assert await read(reader) == QUERY * 3000
        writer.close()

    play(client, answer)


def test_a_client_that_never_reads_is_not_read_either_and_then_let_go() -> None:
    asked = 0

    def answer(query: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return bytes(60000)

    async def client(service: TcpService, where: tuple[str, int]) -> None:
        _, writer = await asyncio.open_connection(*where)
        writer.write(framed(QUERY) * 20000)
        while not service.connections:
            await asyncio.sleep(0.01)
        while service.connections:
            await asyncio.sleep(0.01)
        assert asked < 2000
        writer.transport.abort()

    play(client, answer, idle=0.3)


def test_queries_that_wait_are_bounded_and_all_answered() -> None:
    waiting, most = 0, 0

    async def answer(query: bytes) -> bytes:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.001)
        waiting -= 1
        return query

    async def client(service: TcpService, where: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*where)
        queries = [i.to_bytes(20, "big") for i in range(500)]
        writer.write(b"".join(map(framed, queries)))
        assert sorted([await read(reader) for _ in queries]) == queries
        assert most == tcp.MAX_IN_FLIGHT
        writer.close()

    play(client, answer)
