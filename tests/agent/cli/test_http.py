"""URLs, and a server that says exactly what it is told to say."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.http import HttpError, Url, fetch, quote


def serve(*answers: bytes, hold: bool = False) -> tuple[Url, list[bytes], Callable[[], None]]:
    """One connection per answer; returns (url, requests seen, close)."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []
    done = threading.Event()

    def run() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(answer)
                if hold:
                    done.wait(10)

    thread = threading.Thread(target=run)
    thread.start()

    def close() -> None:
        done.set()
        thread.join(10)
        listener.close()

    return Url(f"http://127.0.0.1:{listener.getsockname()[1]}/x"), seen, close


def ask(*answers: bytes, method: str = "GET", body: bytes = b"") -> tuple[int, bytes, list[bytes]]:
    url, seen, close = serve(*answers)
    try:
        status, answer = fetch(method, url, body, 10)
    finally:
        close()
    return status, answer, seen


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("http://localhost:15000/a?b=c#d", "localhost", 15000, "/a?b=c"),
        ("http://localhost", "localhost", 80, "/"),
        ("https://h", "h", 443, "/"),
        ("http://[::1]:8/x", "::1", 8, "/x"),
        ("http://[::1]/x", "::1", 80, "/x"),
        ("http://u:p@h:1?q", "h", 1, "/?q"),
        ("http://h/a b\u00e9", "h", 80, "/a%20b%C3%A9"),
    ],
)
def test_urls(url: str, host: str, port: int, target: str) -> None:
    parsed = Url(url)
    assert (parsed.host, parsed.port, parsed.target) == (host, port, target)


@pytest.mark.parametrize("url", ["", "localhost", "ftp://x", "http://", "http://h:x", "http://h:0", "http://h:70000"])
def test_unusable_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"http://|host and port"):
        Url(url)


@given(st.text(max_size=30), st.sampled_from(["http://", "https://h/", "http://h:1", ""]))
def test_any_url(text: str, start: str) -> None:
    with suppress(ValueError):
        url = Url(start + text)
        url.target.encode("ascii")
        assert url.host


def test_escapes_stay() -> None:
    assert quote("/a%20b?c=%41\r\n") == "/a%20b?c=%41%0D%0A"


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n", 200, b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 503, b""),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
        (b"HTTP/1.0 404\n\nx", 404, b"x"),
        (b"HTTP/1.1 302 Nowhere\r\nContent-Length: 0\r\n\r\n", 302, b""),
    ],
)
def test_answers(answer: bytes, status: int, body: bytes) -> None:
    assert ask(answer)[:2] == (status, body)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab", "cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cut off"),
        (b"SSH-2.0-x\r\n", "not HTTP"),
        (b"", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not HTTP"),
    ],
)
def test_bad_answers(answer: bytes, reason: str) -> None:
    with pytest.raises(HttpError, match=reason):
        ask(answer)


def test_method_and_body_arrive() -> None:
    *_, seen = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", method="POST", body=b"payload")
    assert seen[0].startswith(b"POST /x HTTP/1.1\r\n")
    assert b"Content-Length: 7\r\n" in seen[0]
    assert seen[0].endswith(b"\r\n\r\npayload")


def test_redirects_are_followed_for_get() -> None:
    url, seen, close = serve(
        b"HTTP/1.1 302 Found\r\nLocation: ../y?z\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nhere"
    )
    try:
        assert fetch("GET", url, b"", 10) == (200, b"here")
    finally:
        close()
    assert b"GET /../y?z " in seen[1]


def test_another_server_gets_none_of_the_headers_for_the_first() -> None:
    other, seen, close_other = serve(b"HTTP/1.1 200 OK\r\n\r\n")
    away = f"HTTP/1.1 302 Found\r\nLocation: http://{other.authority}/\r\nContent-Length: 0\r\n\r\n"
    here = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"
    url, asked, close = serve(here, away.encode())
    try:
        assert fetch("GET", url, b"", 10, {"Authorization": "Bearer t"})[0] == 200
    finally:
        close()
        close_other()
    assert [b"Bearer t" in request for request in (*asked, *seen)] == [True, True, False]


def test_endless_redirects_end() -> None:
    with pytest.raises(HttpError, match="10 redirects"):
        ask(*[b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"] * 10)


def test_time_is_bounded() -> None:
    url, _, close = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", hold=True)
    try:
        with pytest.raises(HttpError, match="in time"):
            fetch("GET", url, b"", 0.2)
    finally:
        close()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(HttpError, match="refused"):
        fetch("GET", Url(f"http://127.0.0.1:{port}/"), b"", 5)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(data: bytes, with_head: bool) -> None:
    with suppress(HttpError):
        ask((b"HTTP/1.1 200 OK\r\n" if with_head else b"") + data)
