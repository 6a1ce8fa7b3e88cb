"""Getting a socket to a server: its addresses in turn, TCP, and TLS with HTTP/2 agreed on."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from enum import Enum

from agent.config import HttpProxy
from agent.lookup import Address, addresses
from agent.rpc.status import Code, RpcError

PATIENCE = 2.0  # seconds for one of several addresses; the caller bounds the whole


class Why(Enum):
    """What kept a connection from being made."""

    PROXY = "proxy"
    LOOKUP = "lookup"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NAME = "name"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    UNTRUSTED = "untrusted"
    NOT_TLS = "not TLS"
    NOT_HTTP2 = "not HTTP/2"
    TLS = "TLS"


class DialError(RpcError):
    """There is no connection."""

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message, heard=False)
        self.why = why


# What is wrong with a proxy, after its name
_AWAY = {Why.REFUSED: "refuses connections", Why.LOOKUP: "cannot be found: its name is not resolved"}
# X509_V_ERR_* of OpenSSL
_VERIFY = {9: Why.NOT_YET_VALID, 10: Why.EXPIRED, 62: Why.NAME, 64: Why.NAME}


async def dial(
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    server_name: str,
    source: str | None = None,
    proxy: HttpProxy | None = None,
) -> socket.socket:
    """A connected non-blocking socket, with TLS if there is a `context`. Raises DialError. `source`: own address.

    Through a `proxy` the host is whatever the proxy takes it for: its name is not resolved here.
    """
    if proxy is None:
        sock = await _reach(host, port, source)
    else:
        from agent.rpc import tunnel

        try:
            sock = await _reach(proxy.host, proxy.port, source)
        except DialError as e:
            raise DialError(
                Why.PROXY, f"{tunnel.name(proxy)} {_AWAY.get(e.why) or f'cannot be reached: {e.message}'}"
            ) from e
        await tunnel.open_to(sock, proxy, host, port)
    return sock if context is None else await secure(sock, context, server_name)


async def _reach(host: str, port: int, source: str | None) -> socket.socket:
    """Connected to one of the addresses of `host`."""
    try:
        found = await addresses(host, port)
    except OSError as e:
        raise DialError(Why.LOOKUP, f"lookup failed: {e.strerror or e}") from e
    if host.lower() == "localhost":
        # It means the loopback of both families (RFC 6761 section 6.3), whatever a hosts file leaves out.
        found += [address for address in _loopback(port) if address not in found]
    failure: DialError | None = None
    for number, address in enumerate(found, 1):
        try:
            async with asyncio.timeout(PATIENCE if number < len(found) else None):
                return await _connect(address, source)
        except OSError as e:
            kind = Why.REFUSED if isinstance(e, ConnectionRefusedError) else Why.UNREACHABLE
            # asyncio's texts do not say what went wrong; the end of our own patience has no number.
            text = os.strerror(e.errno) if e.errno else f"no answer from {address[1][0]} within {PATIENCE:g} s"
            failure = DialError(kind, text)
    raise failure or DialError(Why.LOOKUP, "lookup failed: no addresses")


def _loopback(port: int) -> list[Address]:
    return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))]


async def _connect(address: Address, source: str | None) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def secure(sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> ssl.SSLSocket:
    """The TLS handshake on a connected socket, which is closed if it fails. Raises DialError.

    The server's side of it has no `server_name`.
    """
    # As with agent.lookup: a `str` loads the tables of international names.
    name = server_name.encode() if server_name and server_name.isascii() else server_name
    try:
        secured = context.wrap_socket(
            sock, server_side=server_name is None, server_hostname=name, do_handshake_on_connect=False
        )
    except (OSError, ValueError) as e:
        sock.close()
        raise DialError(Why.TLS, str(e)) from e
    try:
        await _agree(secured, "client" if server_name is None else "server")
    except BaseException:
        secured.close()
        raise
    return secured


async def _agree(sock: ssl.SSLSocket, peer: str) -> None:
    """Handshake, and HTTP/2 as its result. Raises DialError."""
    try:
        await _handshake(sock)
    except ssl.SSLCertVerificationError as e:
        raise DialError(_VERIFY.get(e.verify_code, Why.UNTRUSTED), e.verify_message or str(e)) from e
    except ssl.SSLEOFError as e:
        raise DialError(Why.TLS, "the connection was closed during the TLS handshake") from e
    except ssl.SSLError as e:
        not_tls = e.reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
        raise DialError(Why.NOT_TLS if not_tls else Why.TLS, f"the TLS handshake failed: {e.reason or e}") from e
    except OSError as e:
        raise DialError(Why.TLS, f"the TLS handshake failed: {e.strerror or e}") from e
    if sock.selected_alpn_protocol() != "h2":
        raise DialError(Why.NOT_HTTP2, f"the {peer} did not agree on HTTP/2 (ALPN h2)")


async def readable(sock: socket.socket) -> None:
    """Return when there is something to read, or an end."""
    loop = asyncio.get_running_loop()
    await _until(sock, loop.add_reader, loop.remove_reader)


async def _handshake(sock: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            await readable(sock)
        except ssl.SSLWantWriteError:
            await _until(sock, loop.add_writer, loop.remove_writer)


async def _until(sock: socket.socket, add: Callable[..., None], remove: Callable[[socket.socket], bool]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(sock, _settle, ready)
    try:
        await ready
    finally:
        remove(sock)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
