"""The small HTTP client against servers that behave and servers that do not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from agent.envoy.admin import Admin, Answer
from agent.errors import AttemptError

T = TypeVar("T")


def ask(
    answer: bytes | None,
    *,
    close: bool = True,
    timeout: float | None = 5.0,
    max_body: int = 1 << 20,
    method: str = "GET",
) -> tuple[Answer | AttemptError, bytes]:
    """One request to a server that answers with these bytes (None: never); returns the outcome and what it was sent."""

    async def run() -> tuple[Answer | AttemptError, bytes]:
        seen = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.extend(await reader.readuntil(b"\r\n\r\n"))
            if answer is not None:
                writer.write(answer)
                if close:
                    writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            admin = Admin("127.0.0.1", server.sockets[0].getsockname()[1], max_body=max_body)
            try:
                outcome: Answer | AttemptError = await admin.request(method, "/stats?filter=^a$", timeout)
            except AttemptError as error:
                outcome = error
        return outcome, bytes(seen)

    return asyncio.run(run())


def test_what_goes_out() -> None:
    _, seen = ask(b"HTTP/1.1 200 OK\r\n\r\n")
    lines = seen.split(b"\r\n")
    assert lines[0] == b"GET /stats?filter=^a$ HTTP/1.1"
    assert lines[1].lower().startswith(b"host: 127.0.0.1:")
    assert b"connection: close" in [line.lower() for line in lines]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
    ],
)
def test_every_framing(answer: bytes) -> None:
    outcome, _ = ask(answer)
    assert isinstance(outcome, Answer)
    assert (outcome.status, outcome.text) == (200, "hello")
    assert ("x-a", "b") in outcome.headers


def test_an_error_status_is_an_answer() -> None:
    outcome, _ = ask(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(outcome, Answer)
    assert (outcome.status, outcome.body) == (503, b"")


def test_a_peer_that_keeps_the_connection_is_not_waited_for() -> None:
    outcome, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", close=False)
    assert isinstance(outcome, Answer)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "protocol"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000, "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"a" * 2_000_000, "too_large"),
    ],
    ids=["nothing", "short", "ssh", "endless-head", "too-large"],
)
def test_bad_answers(answer: bytes, reason: str) -> None:
    outcome, _ = ask(answer)
    assert isinstance(outcome, AttemptError)
    assert outcome.reason == reason
    assert str(outcome).startswith("Envoy's admin port (127.0.0.1:")


def test_the_time_limit_covers_everything() -> None:
    outcome, _ = ask(None, timeout=0.05)
    assert isinstance(outcome, AttemptError)
    assert outcome.reason == "timeout"
    assert str(outcome).endswith("did not answer /stats?filter=^a$ within 0.05 s.")


def attempt(call: Callable[[], Awaitable[T]]) -> AttemptError:
    async def run() -> AttemptError:
        with pytest.raises(AttemptError) as caught:
            await call()
        return caught.value

    return asyncio.run(run())


def test_nobody_there() -> None:
    error = attempt(lambda: Admin("127.0.0.1", 1).get("/", 5.0))
    assert error.reason == "unavailable"
    assert str(error) == "Envoy's admin port (127.0.0.1:1) cannot be reached: Connection refused."


def test_ipv6_hosts_are_bracketed() -> None:
    assert "([::1]:1)" in str(attempt(lambda: Admin("::1", 1).post("/", 5.0)))


def test_a_scrape_is_the_page_or_an_error() -> None:
    async def run() -> None:
        seen: list[bytes] = []
        answers = [
            b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n",
            b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
        ]

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answers.pop(0))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            admin = Admin("127.0.0.1", server.sockets[0].getsockname()[1], "Envoy's statistics port")
            assert await admin.scrape("usedonly&x=%5E", [("user-agent", "P/1")], None) == b"a 1\n"
            with pytest.raises(AttemptError, match=r"statistics port .* with status 503"):
                await admin.scrape("", [], 5.0)
        assert seen[0].startswith(b"GET /stats/prometheus?usedonly&x=%5E HTTP/1.1\r\n")
        assert b"user-agent: P/1\r\n" in seen[0]
        assert seen[1].startswith(b"GET /stats/prometheus HTTP/1.1\r\n")

    asyncio.run(run())
