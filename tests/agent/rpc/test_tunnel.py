"""What is said to a proxy, and what is made of its answer."""

import asyncio
import socket
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import HttpProxy
from agent.rpc.dial import DialError, Why
from agent.rpc.tunnel import MAX_ANSWER, judge, open_to, request

PROXY = HttpProxy("proxy", 3128)
OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("istiod.svc", b"istiod.svc:15012"),
        ("10.0.0.1", b"10.0.0.1:15012"),
        ("fd00::1", b"[fd00::1]:15012"),
        ("bücher.example", b"xn--bcher-kva.example:15012"),
    ],
)
def test_the_request(host: str, place: bytes) -> None:
    sent = request(PROXY, host, 15012)
    assert sent.startswith(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: remora-agent/" % (place, place))
    assert sent.endswith(b"\r\n\r\n")
    assert sent.count(b"\r\n\r\n") == 1
    assert b"authorization" not in sent.lower()
    with_credentials = request(HttpProxy("proxy", 1, "Basic dTpw"), host, 15012)
    assert b"\r\nProxy-Authorization: Basic dTpw\r\n" in with_credentials


@pytest.mark.parametrize("host", ["é" * 64, "a\r\nX: y", "a\x00"])
def test_what_is_no_name_is_not_asked_for(host: str) -> None:
    with pytest.raises(DialError, match="not a host name"):
        request(PROXY, host, 1)


@pytest.mark.parametrize(
    ("answer", "shown", "said"),
    [
        (OPEN, False, ""),
        (b"HTTP/1.0 200\r\n\r\n", False, ""),
        (b"HTTP/1.1 200 OK\n\n", False, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n", True, ""),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", False, "refuses the tunnel: 403 Forbidden"),
        (b"HTTP/1.1 502\r\n\r\n", False, "refuses the tunnel: 502"),
        (b"HTTP/1.1 201 Created\r\n\r\n", False, "refuses the tunnel: 201 Created"),
        (b"HTTP/1.1 500 a\x1b[31m\xe9" + b"x" * 300 + b"\r\n\r\n", False, f"refuses the tunnel: 500 a[31mé{'x' * 94}"),
        (b"HTTP/1.1 407 X\r\n\r\n", False, "wants a user and a password (407): put them into HTTPS_PROXY"),
        (b"HTTP/1.1 407 X\r\n\r\n", True, "does not accept the user and password of HTTPS_PROXY (407)"),
        (b"", False, "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\n", False, "does not answer as an HTTP proxy does"),
        (b"HTTP/2 200 OK\r\n\r\n", False, "does not answer as an HTTP proxy does"),
        (b"HTTP/1.1 0200 OK\r\n\r\n", False, "does not answer as an HTTP proxy does"),
        (b"\x15\x03\x01\x00\x02\x02\x46", False, "does not answer as an HTTP proxy does"),
        (b"SSH-2.0-x\r\n\r\n", False, "does not answer as an HTTP proxy does"),
    ],
)
def test_the_answer(answer: bytes, shown: bool, said: str) -> None:
    assert judge(answer, shown) == said


def dialogue(pieces: Sequence[bytes], end: bool = False) -> tuple[bytes, str]:
    """What is left for the server's client when the proxy has sent these, and why there is no tunnel."""

    async def main() -> tuple[bytes, str]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with ours, theirs:
            async with asyncio.TaskGroup() as group, asyncio.timeout(20):
                opening = group.create_task(attempt(ours), name="opening")
                for piece in pieces:
                    await loop.sock_sendall(theirs, piece)
                    await asyncio.sleep(0)
                if end:
                    theirs.shutdown(socket.SHUT_WR)
                said = await opening
            if said:
                assert ours.fileno() < 0
                return b"", said
            assert await loop.sock_recv(theirs, 4096) == request(PROXY, "istiod", 15012)
            theirs.shutdown(socket.SHUT_WR)
            rest = b""
            while more := await loop.sock_recv(ours, 4096):
                rest += more
            return rest, ""

    async def attempt(sock: socket.socket) -> str:
        try:
            await open_to(sock, PROXY, "istiod", 15012)
        except DialError as e:
            return e.message if e.why is Why.PROXY else f"another kind: {e}"
        return ""

    return asyncio.run(main())


@given(st.lists(st.integers(1, len(OPEN) + 20), max_size=6), st.binary(max_size=30))
def test_the_answer_is_read_to_its_end_and_no_further(cuts: list[int], rest: bytes) -> None:
    stream = OPEN + rest
    places = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert dialogue(pieces) == (rest, "")


@given(st.binary(max_size=60))
def test_any_answer_is_one_sentence(answer: bytes) -> None:
    _, said = dialogue([answer] if answer else [], end=True)
    assert not said or (said.startswith("the proxy proxy:3128 ") and said.isprintable())


def test_endless_answers_are_not_read_to_the_end() -> None:
    lines = [b"HTTP/1.1 200 OK\r\n", *[b"X: %b\r\n" % (b"y" * 1000) for _ in range(MAX_ANSWER // 1000 + 1)]]
    assert dialogue(lines) == (b"", "the proxy proxy:3128 does not answer as an HTTP proxy does")


def test_a_broken_connection() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.close()
        with pytest.raises(DialError, match="the proxy proxy:3128 broke the connection: Broken pipe"):
            await open_to(ours, PROXY, "istiod", 1)
        assert ours.fileno() < 0

    asyncio.run(main())


def test_a_proxy_that_hangs_can_be_left() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await open_to(ours, PROXY, "istiod", 1)
            assert ours.fileno() < 0

    asyncio.run(main())
