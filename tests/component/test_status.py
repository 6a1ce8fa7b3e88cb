"""The status port with real sockets: kubelets, Prometheus, slow and rude clients."""

import asyncio
import gzip
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import StatusConfig
from agent.errors import AttemptError
from agent.model import Readiness
from agent.status import http
from agent.status.server import StatusServer, bind

T = TypeVar("T")


@dataclass
class World:
    """What the server's neighbours do and saw."""

    ready: Readiness = field(default_factory=lambda: Readiness(True))
    checks: int = 0
    drains: int = 0
    quits: int = 0
    scraped: list[tuple[str, Sequence[tuple[str, str]], float | None]] = field(default_factory=list)
    page: bytes | AttemptError = b"envoy_x 1\n"
    port: int = 0
    server: StatusServer | None = None

    async def check(self) -> Readiness:
        self.checks += 1
        return self.ready

    async def drain(self) -> None:
        self.drains += 1

    def quit(self) -> None:
        self.quits += 1

    async def scrape(self, query: str, headers: Sequence[tuple[str, str]], timeout: float | None) -> bytes:
        self.scraped.append((query, headers, timeout))
        if isinstance(self.page, AttemptError):
            raise self.page
        return self.page


def serve(script: Callable[[World], Awaitable[T]], *checks: Callable[[], Awaitable[Readiness]]) -> tuple[T, World]:
    """Run `script` beside a server."""
    world = World()

    async def run() -> T:
        sock = bind(0)
        server = StatusServer(
            StatusConfig(0), sock, [world.check, *checks], world.drain, world.quit, scrape=world.scrape
        )
        world.server, world.port = server, server.port
        await server.start()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            try:
                async with asyncio.timeout(60):
                    return await script(world)
            finally:
                task.cancel()

    return asyncio.run(run()), world


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    world: World,
    target: str,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    host: str = "127.0.0.1",
    body: bytes = b"",
) -> Answer:
    reader, writer = await asyncio.open_connection(host, world.port)
    try:
        lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *(f"{k}: {v}" for k, v in headers)]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return parse(await reader.read(), method)
    finally:
        writer.close()


def parse(data: bytes, method: str = "GET") -> Answer:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return Answer(head.status_code, {k.decode(): v.decode() for k, v in head.headers}, body)


# ------------------------------------------------------------------------------------------------ readiness


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_ready_is_an_empty_200(method: str) -> None:
    answer, _ = serve(lambda w: ask(w, "/healthz/ready", method))
    assert (answer.status, answer.body) == (200, b"")


def test_not_ready_is_a_503_with_the_reason() -> None:
    async def script(world: World) -> Answer:
        world.ready = Readiness(False, "config\nnot received")
        return await ask(world, "/healthz/ready")

    answer, _ = serve(script)
    assert (answer.status, answer.body) == (503, b"config\\nnot received\n")


def test_head_of_a_503_has_no_body() -> None:
    async def script(world: World) -> Answer:
        world.ready = Readiness(False, "no")
        return await ask(world, "/healthz/ready", "HEAD")

    answer, _ = serve(script)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (503, b"", "3")


def test_gates_after_a_closed_one_are_not_asked() -> None:
    asked = []

    async def second() -> Readiness:
        asked.append(1)
        return Readiness(False, "second")

    async def script(world: World) -> list[bytes]:
        first = await ask(world, "/healthz/ready")
        world.ready = Readiness(False, "first")
        return [first.body, (await ask(world, "/healthz/ready")).body]

    bodies, _ = serve(script, second)
    assert bodies == [b"second\n", b"first\n"]
    assert asked == [1]


def test_the_first_success_is_the_startup_time() -> None:
    async def script(world: World) -> list[bytes]:
        world.ready = Readiness(False, "no")
        await ask(world, "/healthz/ready")
        before = (await ask(world, "/metrics")).body
        world.ready = Readiness(True)
        await ask(world, "/healthz/ready")
        return [before, (await ask(world, "/metrics")).body]

    (before, after), _ = serve(script)
    assert b"istio_agent_startup_duration_seconds " not in before
    assert b"istio_agent_startup_duration_seconds " in after


# ------------------------------------------------------------------------------------------------ metrics


@pytest.mark.parametrize("path", ["/metrics", "/stats/prometheus"])
def test_the_agents_metrics_come_first_then_envoys(path: str) -> None:
    answer, world = serve(lambda w: ask(w, path + "?usedonly", headers=[("User-Agent", "P/1"), ("Cookie", "x")]))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.body.endswith(b"envoy_x 1\n")
    assert b"istio_agent_scrapes_total 1\n" in answer.body
    assert b"istio_agent_process_resident_memory_bytes " in answer.body
    [(query, headers, timeout)] = world.scraped
    assert (query, timeout) == ("usedonly", None)
    assert dict(headers) == {"user-agent": "P/1", "accept": "text/plain;version=0.0.4"}


def test_an_envoy_that_does_not_answer_is_counted() -> None:
    async def script(world: World) -> bytes:
        world.page = AttemptError("timeout", "too late")
        assert (await ask(world, "/metrics")).status == 200
        return (await ask(world, "/metrics")).body

    body, _ = serve(script)
    assert b'istio_agent_scrape_failures_total{type="envoy"} 1\n' in body


@pytest.mark.parametrize(
    ("text", "seconds"), [("7.5", 7.5), ("soon", None), ("", None), ("-1", None), ("nan", None), ("inf", None)]
)
def test_the_scrapers_time_limit(text: str, seconds: float | None) -> None:
    _, world = serve(lambda w: ask(w, "/metrics", headers=[("X-Prometheus-Scrape-Timeout-Seconds", text)]))
    assert world.scraped[0][2] == seconds


@pytest.mark.parametrize(
    ("accept", "packed"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("identity", False), ("", False)],
)
def test_large_answers_are_compressed_on_request(accept: str, packed: bool) -> None:
    async def script(world: World) -> Answer:
        world.page = b"envoy_x 1\n" * 1000
        return await ask(world, "/metrics", headers=[("Accept-Encoding", accept)])

    answer, _ = serve(script)
    assert ("content-encoding" in answer.headers) == packed
    body = gzip.decompress(answer.body) if packed else answer.body
    assert body.endswith(b"envoy_x 1\n" * 1000)
    assert answer.headers["vary"] == "accept-encoding"


def test_metrics_can_be_kept_on_the_machine() -> None:
    async def handled(peer: str) -> int:
        with bind(0) as sock:
            config = StatusConfig(0, local_metrics_only=True)
            world = World()
            server = StatusServer(config, sock, [world.check], world.drain, world.quit)
            return (await server.answer(http.Request("GET", "/metrics", "", {}, peer))).status

    assert [asyncio.run(handled(peer)) for peer in ("127.0.0.1", "::1", "10.0.0.1")] == [200, 200, 403]


def test_envoys_part_can_be_left_out() -> None:
    async def run() -> bytes:
        with bind(0) as sock:
            world = World()
            config = StatusConfig(0, merge_envoy_stats=False)
            server = StatusServer(config, sock, [], world.drain, world.quit, scrape=world.scrape)
            return (await server.answer(http.Request("GET", "/metrics", "", {}, "::1"))).body

    assert b"envoy_x" not in asyncio.run(run())


def test_a_gate_that_fails_costs_one_request_only() -> None:
    async def broken() -> Readiness:
        raise RuntimeError("a bug")

    async def script(world: World) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        return (await ask(world, "/metrics")).status

    assert serve(script, broken)[0] == 200


# ------------------------------------------------------------------------------------------------ control


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.8.8.8"])
def test_quit_and_drain(host: str) -> None:
    async def script(world: World) -> list[tuple[int, bytes]]:
        answers = [await ask(world, path, "POST", host=host) for path in ("/drain", "/drain", "/quitquitquit")]
        return [(a.status, a.body) for a in answers]

    answers, world = serve(script)
    assert answers == [(200, b"OK")] * 3
    assert (world.drains, world.quits) == (2, 1)


@pytest.mark.parametrize("path", ["/drain", "/quitquitquit"])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_only_post_controls(path: str, method: str) -> None:
    answer, world = serve(lambda w: ask(w, path, method))
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    assert (world.drains, world.quits) == (0, 0)


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1", False),
        ("1270.0.0.1", False),
    ],
)
def test_who_is_local(peer: str, local: bool) -> None:
    assert http.Request("POST", "/drain", "", {"x-forwarded-for": "127.0.0.1"}, peer).local is local


@pytest.mark.parametrize("path", ["/", "/nope", "/healthz", "/healthz/ready/", "/metrics/", "/quitquitquit/now", "*"])
def test_unknown_paths(path: str) -> None:
    answer, _ = serve(lambda w: ask(w, path))
    assert answer.status == 404


# ------------------------------------------------------------------------------------------------ the server itself


def test_connections_are_kept() -> None:
    async def script(world: World) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        for _ in range(50):
            writer.write(b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()
        return world.checks

    assert serve(script)[0] == 50


def test_pipelined_requests_are_answered_in_order() -> None:
    async def script(world: World) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(
            b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\n\r\nGET /no HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        return await reader.read()

    data, _ = serve(script)
    assert data.index(b"HTTP/1.1 200") < data.index(b"HTTP/1.1 404")


def test_http_1_0_is_answered_and_closed() -> None:
    async def script(world: World) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"GET /healthz/ready HTTP/1.0\r\n\r\n")
        return await reader.read()

    assert serve(script)[0].split()[1] == b"200"


def test_a_client_that_waits_for_continue() -> None:
    async def script(world: World) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"POST /drain HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"{}")
        return await reader.readuntil(b"\r\n\r\n")

    assert serve(script)[0].startswith(b"HTTP/1.1 200")


def test_two_hundred_probes_at_once_beside_stalled_clients() -> None:
    async def script(world: World) -> list[int]:
        stalled = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(150)]
        for i, (_, writer) in enumerate(stalled):
            writer.write((b"", b"GET /heal", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")[i % 3])
        answers = await asyncio.gather(*(ask(world, "/healthz/ready") for _ in range(200)))
        for _, writer in stalled:
            writer.close()
        return [answer.status for answer in answers]

    assert serve(script)[0] == [200] * 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 200_000 + b"\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\0\xa5\x01\0\0\xa1\x03\x03\r\n\r\n",
        b"GET /healthz/ready HTTP/1.1\r\n\r\n",
        b"POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"a" * 200_000,
        b"POST /drain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["huge-header", "nonsense", "tls-hello", "no-host", "huge-body", "bad-chunk"],
)
def test_bad_requests_are_refused_and_survived(raw: bytes) -> None:
    async def script(world: World) -> tuple[bytes, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        try:
            writer.write(raw)
            data = await reader.read()
        except ConnectionError:
            data = b""
        finally:
            writer.close()
        return data, (await ask(world, "/healthz/ready")).status

    (data, after), world = serve(script)
    assert not data or data.split()[1].startswith(b"4")
    assert after == 200
    assert world.drains == 0


def test_a_slow_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADER_TIMEOUT", 0.1)

    async def script(world: World) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"GET /healthz")
        return await reader.read()

    assert serve(script)[0] == b""


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_TIMEOUT", 0.1)

    async def script(world: World) -> bytes:
        reader, _ = await asyncio.open_connection("127.0.0.1", world.port)
        return await reader.read()

    assert serve(script)[0] == b""


def test_the_port_is_free_once_the_server_ended() -> None:
    async def script(world: World) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(b"GET /healthz/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        return world.port

    port, _ = serve(script)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
def test_any_bytes_leave_the_server_serving(chunks: list[bytes]) -> None:
    async def script(world: World) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        try:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()
        return (await ask(world, "/healthz/ready")).status

    assert serve(script)[0] == 200
