"""A way through an HTTP proxy: CONNECT on a fresh connection, after which the bytes are the server's."""

import asyncio
import re
import socket

from agent.config import HttpProxy
from agent.httpproxy import ascii_name
from agent.rpc.dial import DialError, Why, readable
from agent.version import VERSION

MAX_ANSWER = 16 << 10  # bytes of a proxy's status line and header fields
MAX_REASON = 100  # characters of its words that are repeated
_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] +([1-9][0-9][0-9])(?: ([^\r\n]*))?\r?\n")


def name(proxy: HttpProxy) -> str:
    """For people."""
    return f"the proxy {proxy.host}:{proxy.port}"


async def open_to(sock: socket.socket, proxy: HttpProxy, host: str, port: int) -> None:
    """Ask the proxy at the other end of `sock` (closed if that fails) for `host`. Raises DialError, in one sentence.

    The answer is read to its end and no further. How long that may take is the caller's to bound.
    """
    try:
        await asyncio.get_running_loop().sock_sendall(sock, request(proxy, host, port))
        if refusal := judge(await _answer(sock), bool(proxy.authorization)):
            raise DialError(Why.PROXY, f"{name(proxy)} {refusal}")
    except BaseException as e:
        sock.close()
        if isinstance(e, OSError):
            raise DialError(Why.PROXY, f"{name(proxy)} broke the connection: {e.strerror or e}") from e
        raise


def request(proxy: HttpProxy, host: str, port: int) -> bytes:
    """What asks for a tunnel. Raises DialError for what no header can hold."""
    known = ascii_name(host)
    if not (known.isascii() and known.isprintable()):
        raise DialError(Why.LOOKUP, "not a host name")
    place = f"[{known}]:{port}" if ":" in known else f"{known}:{port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", f"User-Agent: remora-agent/{VERSION}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join([*lines, "", ""]).encode()


def judge(answer: bytes, shown: bool) -> str:
    """Why the proxy opens no tunnel, after its name; "" if it does. `shown`: whether it was shown credentials."""
    if not answer:
        return "closed the connection without an answer"
    found = _STATUS.match(answer)
    if found is None or not _END.search(answer):
        return "does not answer as an HTTP proxy does"
    status = int(found[1])
    if status == 200:
        return ""
    if status == 407:
        if shown:
            return "does not accept the user and password of HTTPS_PROXY (407)"
        return "wants a user and a password (407): put them into HTTPS_PROXY"
    words = "".join(c for c in (found[2] or b"").decode("latin-1") if c.isprintable())[:MAX_REASON].strip()
    return f"refuses the tunnel: {status} {words}".rstrip()


async def _answer(sock: socket.socket) -> bytes:
    """Everything up to the empty line; less if the proxy ends before it or says too much."""
    answer = b""
    while len(answer) < MAX_ANSWER:
        await readable(sock)
        try:
            # A server may speak as soon as the tunnel is there: what follows the answer is left to whom it is for.
            waiting = sock.recv(MAX_ANSWER, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        if not waiting:
            return answer
        end = _END.search(answer + waiting)
        taken = end.end() - len(answer) if end else len(waiting)
        answer += sock.recv(taken)
        if end:
            return answer
    return answer
