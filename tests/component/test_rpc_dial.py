"""Dialling servers whose TLS is wrong in every way that there is, and those where it is right."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from agent.config import PeerConfig
from agent.peer import client_context
from agent.rpc.client import Link
from agent.rpc.dial import DialError, Why, dial
from agent.rpc.sending import Limits
from agent.rpc.status import Code
from tests.fakes.ca import Root, key_pem, new_key
from tests.fakes.rpc import SECONDS, dialled, ended, grpcio, until

NAME = "istiod.istio-system.svc"


def trusting(tmp_path: Path, *roots: Root, pair: tuple[bytes, bytes] | None = None) -> ssl.SSLContext:
    """The context with which the agent dials, for these roots and this client certificate (key, chain)."""
    file = tmp_path / "roots.pem"
    file.write_bytes(b"".join(root.pem for root in roots))
    return client_context(PeerConfig(addresses=(), plaintext=False, root_file=str(file), server_name=NAME), pair)


def shown(tmp_path: Path, key: bytes, *chain: bytes) -> ssl.SSLContext:
    """A server's context that shows this certificate."""
    file = tmp_path / "server.pem"
    file.write_bytes(key + b"".join(chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.set_alpn_protocols(["h2"])
    return context


class Listener:
    """A server in a thread: each connection is given to `serve`, which blocks as it likes."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="listener")

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                try:
                    self._serve(sock)
                except OSError:
                    continue

    def __enter__(self) -> int:
        self._thread.start()
        return self.port

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def secured(context: ssl.SSLContext) -> Listener:
    """Handshake, then wait for the client to go."""

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)

    return Listener(serve)


async def failure(port: int, context: ssl.SSLContext | None, name: str = NAME) -> DialError:
    with pytest.raises(DialError) as caught:
        async with asyncio.timeout(SECONDS):
            await dial("127.0.0.1", port, context, name)
    assert caught.value.code is Code.UNAVAILABLE
    assert not caught.value.heard
    assert "\n" not in caught.value.message
    return caught.value


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def fails(port: int, context: ssl.SSLContext | None, name: str = NAME) -> tuple[Why, str]:
    """Why it fails; nothing stays open."""

    async def go() -> DialError:
        before = handles()
        error = await failure(port, context, name)
        await until(lambda: handles() <= before)
        return error

    error = asyncio.run(go())
    return error.why, error.message


# -- Certificates


def test_a_good_certificate(tmp_path: Path) -> None:
    root = Root()

    async def go(port: int) -> None:
        sock = await dial("127.0.0.1", port, trusting(tmp_path, root), NAME)
        with sock:
            assert isinstance(sock, ssl.SSLSocket)
            assert sock.selected_alpn_protocol() == "h2"
            assert sock.version() == "TLSv1.3"
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    with secured(shown(tmp_path, *root.server(NAME))) as port:
        asyncio.run(go(port))


@pytest.mark.parametrize(
    ("names", "expected", "good"),
    [
        (("127.0.0.1",), "127.0.0.1", True),
        (("127.0.0.2",), "127.0.0.1", False),
        (("istiod.elsewhere.svc",), "127.0.0.1", False),
        (("istiod.elsewhere.svc",), NAME, False),
        (("127.0.0.1",), NAME, False),
        (("other", NAME), NAME, True),
        (("*.istio-system.svc",), NAME, True),
        (("*.svc",), NAME, False),
    ],
)
def test_names(tmp_path: Path, names: tuple[str, ...], expected: str, good: bool) -> None:
    root = Root()

    async def go(port: int) -> None:
        (await dial("127.0.0.1", port, trusting(tmp_path, root), expected)).close()

    with secured(shown(tmp_path, *root.server(*names))) as port:
        if good:
            asyncio.run(go(port))
        else:
            why, text = fails(port, trusting(tmp_path, root), expected)
            assert why is Why.NAME
            assert expected in text


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    root = Root()
    with secured(shown(tmp_path, *root.server(NAME, ttl=-60))) as port:
        assert fails(port, trusting(tmp_path, root))[0] is Why.EXPIRED


def test_a_certificate_that_is_not_valid_yet(tmp_path: Path) -> None:
    root = Root()
    key = new_key()
    leaf = root.issue(key.public_key(), [x509.DNSName(NAME)], not_before=3600, ttl=7200)
    with secured(shown(tmp_path, key_pem(key), leaf)) as port:
        assert fails(port, trusting(tmp_path, root))[0] is Why.NOT_YET_VALID


def test_a_root_that_has_expired(tmp_path: Path) -> None:
    root = Root(days=-1)
    with secured(shown(tmp_path, *root.server(NAME))) as port:
        assert fails(port, trusting(tmp_path, root))[0] is Why.EXPIRED


@pytest.mark.parametrize("name", ["root", "another"])
def test_another_root(tmp_path: Path, name: str) -> None:
    """Also one of the same name with another key."""
    with secured(shown(tmp_path, *Root("root").server(NAME))) as port:
        assert fails(port, trusting(tmp_path, Root(name)))[0] is Why.UNTRUSTED


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("trusted", ["root", "intermediate"])
def test_chains(tmp_path: Path, trusted: str, sent: bool) -> None:
    """Whatever is in the file is trusted: an intermediate alone too, and a missing one is found there."""
    root = Root()
    middle = root.intermediate("middle")
    key, leaf = middle.server(NAME)
    anchor = root if trusted == "root" else middle

    async def go(port: int) -> None:
        (await dial("127.0.0.1", port, trusting(tmp_path, anchor), NAME)).close()

    with secured(shown(tmp_path, key, leaf, *([middle.pem] if sent else []))) as port:
        if trusted == "root" and not sent:
            assert fails(port, trusting(tmp_path, anchor))[0] is Why.UNTRUSTED
        else:
            asyncio.run(go(port))


# -- Protocols


def test_a_server_without_http2(tmp_path: Path) -> None:
    root = Root()
    for protocols in ([], ["http/1.1"]):
        context = shown(tmp_path, *root.server(NAME))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        if protocols:
            context.set_alpn_protocols(protocols)
        with secured(context) as port:
            assert fails(port, trusting(tmp_path, root)) == (
                Why.NOT_HTTP2,
                "the server did not agree on HTTP/2 (ALPN h2)",
            )


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(tmp_path: Path) -> None:
    root = Root()
    context = shown(tmp_path, *root.server(NAME))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with secured(context) as port:
        why, text = fails(port, trusting(tmp_path, root))
        assert why is Why.TLS
        assert "VERSION" in text


def test_tls_1_2_is_enough(tmp_path: Path) -> None:
    root = Root()
    context = shown(tmp_path, *root.server(NAME))
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def go(port: int) -> None:
        sock = await dial("127.0.0.1", port, trusting(tmp_path, root), NAME)
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == "TLSv1.2"
        sock.close()

    with secured(context) as port:
        asyncio.run(go(port))


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\x04\0\0\0\0\0", b"220 mail.example ESMTP\r\n", bytes(50)]
)
def test_a_server_without_tls(tmp_path: Path, answer: bytes) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(answer)
        sock.recv(65_536)

    with Listener(serve) as port:
        assert fails(port, trusting(tmp_path, Root()))[0] is Why.NOT_TLS


def test_googles_server_without_tls(tmp_path: Path) -> None:
    async def go() -> None:
        async with grpcio({}) as port:
            error = await failure(port, trusting(tmp_path, Root()))
            assert error.why is Why.NOT_TLS

    asyncio.run(go())


def test_tls_where_none_is_expected(tmp_path: Path) -> None:
    async def go(port: int) -> None:
        async with await dialled(port) as link:
            code, _ = await ended(link.unary("/t/x", b""))
            assert code is Code.UNAVAILABLE
            assert not link.heard

    with secured(shown(tmp_path, *Root().server(NAME))) as port:
        asyncio.run(go(port))


@pytest.mark.parametrize("heard", [0, 1, 65_536])
def test_a_server_that_closes_within_the_handshake(tmp_path: Path, heard: int) -> None:
    def serve(sock: socket.socket) -> None:
        if heard:
            sock.recv(heard)

    with Listener(serve) as port:
        why, text = fails(port, trusting(tmp_path, Root()))
        assert why is Why.TLS
        assert "closed" in text or "reset" in text


@pytest.mark.parametrize("secure", [True, False])
def test_a_server_that_hangs(tmp_path: Path, secure: bool) -> None:
    """The caller's patience ends it: at once, and nothing stays open."""

    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            port = listener.getsockname()[1]
            fillers = []
            if not secure:  # a full backlog: the kernel does not even answer
                for _ in range(3):
                    fillers.append(socket.socket())
                    fillers[-1].setblocking(False)
                    fillers[-1].connect_ex(("127.0.0.1", port))
            before = handles()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await dial("127.0.0.1", port, trusting(tmp_path, Root()), NAME)
            assert handles() == before
            assert len(asyncio.all_tasks()) == 1
            # The number of the closed socket is free: another may have it without inheriting a callback.
            reader, writer = socket.socketpair()
            with reader, writer:
                reader.setblocking(False)
                loop = asyncio.get_running_loop()
                loop.call_later(0.01, writer.send, b"x")
                assert await asyncio.wait_for(loop.sock_recv(reader, 1), SECONDS) == b"x"
            for filler in fillers:
                filler.close()

    asyncio.run(go())


# -- Client certificates


@asynccontextmanager
async def demanding(server: Root, clients: Root) -> AsyncIterator[int]:
    """Google's server, which wants a client certificate of that root."""

    async def whoami(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b",".join(context.peer_identities() or ())

    credentials = grpc.ssl_server_credentials([server.server(NAME)], clients.pem, require_client_auth=True)
    async with grpcio({"/t/whoami": whoami}, credentials) as port:
        yield port


def test_a_client_certificate(tmp_path: Path) -> None:
    root = Root()
    identity = "spiffe://td/ns/x/sa/y"

    async def go() -> None:
        context = trusting(tmp_path, root, pair=root.workload(identity))
        async with demanding(root, root) as port, await dialled(port, context, NAME) as link:
            assert await link.unary("/t/whoami", b"", timeout=SECONDS) == identity.encode()

    asyncio.run(go())


@pytest.mark.parametrize("shown", [False, True])
def test_a_client_certificate_that_is_missing_or_foreign(tmp_path: Path, shown: bool) -> None:
    """With TLS 1.3 the server says so after our handshake is done: the first call fails, with TLS as the reason."""
    root = Root()

    async def go() -> None:
        pair = Root("foreign").workload("spiffe://td/ns/x/sa/y") if shown else None
        async with (
            demanding(root, root) as port,
            await dialled(port, trusting(tmp_path, root, pair=pair), NAME) as link,
        ):
            code, text = await ended(link.unary("/t/whoami", b"", timeout=SECONDS))
            assert code is Code.UNAVAILABLE
            assert text.startswith("TLS failed: ") or text in ("the connection was closed", "Connection reset by peer")
            assert not link.heard

    asyncio.run(go())


def test_the_alert_about_a_missing_client_certificate_is_told(tmp_path: Path) -> None:
    """A server that takes its leave properly, so that nothing is lost on the way."""
    root = Root()
    context = shown(tmp_path, *root.server(NAME))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=root.pem.decode())

    def serve(sock: socket.socket) -> None:
        tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with pytest.raises(ssl.SSLError):
            tls.do_handshake()
        raw = socket.socket(fileno=tls.detach())
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(65_536):
            continue
        raw.close()

    async def go(port: int) -> None:
        async with await dialled(port, trusting(tmp_path, root), NAME) as link:
            code, text = await ended(link.unary("/t/x", b"", timeout=SECONDS))
            assert (code, text) == (Code.UNAVAILABLE, "TLS failed: TLSV13_ALERT_CERTIFICATE_REQUIRED")

    with Listener(serve) as port:
        asyncio.run(go(port))


# -- Much over TLS


async def echo(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    async for message in requests:
        yield message


def run_secure(tmp_path: Path, body: Callable[[Link], Awaitable[None]], limits: Limits | None = None) -> None:
    root = Root()

    async def go() -> None:
        credentials = grpc.ssl_server_credentials([root.server(NAME)])
        async with (
            grpcio({"/t/echo": echo}, credentials) as port,
            await dialled(port, trusting(tmp_path, root), NAME, limits=limits) as link,
        ):
            await body(link)

    asyncio.run(go())


def test_messages_of_every_length_over_tls(tmp_path: Path) -> None:
    async def body(link: Link) -> None:
        call = link.call("/t/echo")
        for length in [0, 1, 16_370, 16_374, 16_375, 16_379, 16_384, 65_536, 1 << 20]:
            await call.write(os.urandom(16) + bytes(length))
            found = await call.read()
            assert found is not None
            assert len(found) == 16 + length

    run_secure(tmp_path, body)


@pytest.mark.parametrize("views", [False, True])
def test_sixty_megabytes_over_tls(tmp_path: Path, views: bool) -> None:
    large = os.urandom(1 << 20) * 60

    async def body(link: Link) -> None:
        call = link.call("/t/echo")
        async with asyncio.TaskGroup() as group:
            group.create_task(call.write(large))
            assert await call.read_view() == large

    run_secure(tmp_path, body, Limits(views=views))


def test_a_hundred_calls_over_tls(tmp_path: Path) -> None:
    async def body(link: Link) -> None:
        async def one(number: int) -> None:
            message = bytes([number]) * (number * 1000)
            assert await link.unary("/t/echo", message, timeout=SECONDS) == message

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(number))

    run_secure(tmp_path, body)


def test_a_slow_reader_over_tls_loses_nothing(tmp_path: Path) -> None:
    """Reading stops and goes on again while records wait."""

    async def body(link: Link) -> None:
        call = link.call("/t/echo")
        messages = [bytes([n]) * 200_000 for n in range(60)]

        async def push() -> None:
            for message in messages:
                await call.write(message)
            call.finish()

        async with asyncio.TaskGroup() as group:
            group.create_task(push())
            for message in messages:
                await asyncio.sleep(0.005)
                assert await call.read() == message
        assert await call.read() is None

    run_secure(tmp_path, body, Limits(window=65_535))


# -- Addresses


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert fails(free.getsockname()[1], None) == (Why.REFUSED, "Connection refused")


def test_a_name_that_there_is_not() -> None:
    async def go() -> None:
        with pytest.raises(DialError) as caught:
            await dial("name with blanks.invalid", 1, None, "")
        assert caught.value.why is Why.LOOKUP
        assert caught.value.message.startswith("lookup failed: ")

    asyncio.run(go())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_localhost_is_either_family(family: socket.AddressFamily) -> None:
    async def go() -> None:
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        with socket.create_server((host, 0), family=family) as listener:
            sock = await dial("localhost", listener.getsockname()[1], None, "")
            assert sock.getpeername()[0] == host
            sock.close()

    asyncio.run(go())


def test_our_own_address() -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = await dial("127.0.0.1", listener.getsockname()[1], None, "", source="127.0.0.77")
            assert sock.getsockname()[0] == "127.0.0.77"
            sock.close()

    asyncio.run(go())
