import asyncio
from contextlib import asynccontextmanager

import pytest

from agent.config import HealthConfig
from agent.health import http
from agent.record import replace


@asynccontextmanager
async def web(*answers):
    """A server that gives these raw answers in turn; yields (config for it, the requests it saw)."""
    waiting, seen = list(answers), []

    async def serve(reader, writer):
        try:
            seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
            answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            writer.write(answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield HealthConfig("http", "127.0.0.1", server.sockets[0].getsockname()[1]), seen


def probed(*answers, **changes):
    """(what the probe said, the requests that were made)."""

    async def go():
        async with web(*answers) as (config, seen), asyncio.timeout(5):
            return await http.probe(replace(config, **changes)), seen

    return asyncio.run(go())


def status(code, *headers):
    return "\r\n".join([f"HTTP/1.1 {code} x", *headers, "Content-Length: 2", "", "ok"]).encode()


@pytest.mark.parametrize("code", [200, 204, 302, 304, 399])
def test_well(code):
    assert probed(status(code))[0] == ""


@pytest.mark.parametrize("code", [400, 404, 500, 503])
def test_not_well(code):
    assert probed(status(code))[0] == f"HTTP probe failed with status code {code}"


def test_the_request():
    headers = (("X-Probe", "1"), ("Host", "app.example"))
    said, [request] = probed(status(200), path="/a b?q=ä", headers=headers)
    assert said == ""
    line, *rest = request.split("\r\n")
    fields = {name.lower(): value for name, _, value in (field.partition(": ") for field in rest if field)}
    assert line == "GET /a%20b?q=%C3%A4 HTTP/1.1"
    assert fields == {
        "host": "app.example",
        "user-agent": "istio-probe/1.0",
        "connection": "close",
        "x-probe": "1",
    }


def test_redirects_are_followed_and_keep_a_configured_host_while_they_are_relative():
    said, seen = probed(status(302, "Location: /next"), status(500), headers=(("Host", "app.example"),))
    assert said == "HTTP probe failed with status code 500"
    assert [r.split()[1] for r in seen] == ["/", "/next"]
    assert "app.example" in seen[1]


def test_an_absolute_redirect_goes_to_its_own_host():
    async def go():
        async with web(status(200)) as (config, seen):
            async with web(status(307, f"Location: http://127.0.0.1:{config.port}/x")) as (first, _):
                said = await http.probe(replace(first, headers=(("Host", "app.example"),)))
            return said, seen

    said, [request] = asyncio.run(go())
    assert said == ""
    assert "app.example" not in request


def test_redirects_end():
    said, seen = probed(status(301, "Location: /again"))
    assert said == "stopped after 10 redirects"
    assert len(seen) == 10


@pytest.mark.parametrize("location", ["gopher://x/", "http://[::1", "http://127.0.0.1:99999/"])
def test_a_redirect_to_nowhere(location):
    assert "cannot be asked" in probed(status(301, f"Location: {location}"))[0]


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200\r\nbroken\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 200_000]
)
def test_not_http(answer):
    assert probed(answer)[0]


def test_a_body_without_end_does_not_matter():
    assert probed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")[0] == ""


@pytest.mark.parametrize("headers", [(("bad name", "x"),), (("x", "a\nb"),)])
def test_a_header_that_cannot_be_sent(headers):
    assert probed(status(200), headers=headers)[0].startswith("the request cannot be written")
