"""One HTTP/1.1 request over a plain socket: what `request` and `wait` need, without the import time of http.client."""

import socket
import time
from collections.abc import Mapping

_LIMIT = 64 * 1024  # of a response head


class HttpError(Exception):
    """No (complete) answer; `str()` says why in one phrase."""


class Url:
    """The parts of an http:// or https:// URL. Raises ValueError with a reason."""

    __slots__ = ("host", "port", "target", "tls")

    def __init__(self, url: str) -> None:
        scheme, found, rest = url.partition("://")
        self.tls = scheme.lower() == "https"
        if not found or scheme.lower() not in ("http", "https"):
            raise ValueError(f"{url!r} is not an http:// URL")
        rest = rest.partition("#")[0]
        cut = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
        authority, target = rest[:cut].rpartition("@")[2], rest[cut:]
        self.target = quote(target if target.startswith("/") else "/" + target)
        host, colon, port = authority.rpartition(":") if not authority.endswith("]") else (authority, "", "")
        if not colon:
            host, port = authority, "443" if self.tls else "80"
        self.host = host.strip("[]")
        if not self.host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{url!r} has no usable host and port")
        self.port = int(port)

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def quote(target: str) -> str:
    """Percent-encode what may not stand in a request line; escapes that are there stay."""
    raw = target.encode("utf-8", "surrogateescape")
    return "".join(chr(b) if 0x20 < b < 0x7F else f"%{b:02X}" for b in raw)


def fetch(
    method: str, url: Url, body: bytes, timeout: float, extra: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """(status, body) of the final answer; redirects of GET and HEAD are followed. `timeout` (seconds) bounds it all.

    `extra` are further headers, for that server alone: they may hold a token.
    """
    deadline = time.monotonic() + timeout
    for _ in range(10):
        status, headers, answer = _once(method, url, body, deadline, extra or {})
        location = headers.get("location", "")
        if not (300 <= status < 400 and location and method in ("GET", "HEAD")):
            return status, answer
        left, url = url, _follow(url, location)
        if (url.authority, url.tls) != (left.authority, left.tls):
            extra = None
    raise HttpError("stopped after 10 redirects")


def _follow(url: Url, location: str) -> Url:
    scheme = "https" if url.tls else "http"
    try:
        if "://" in location.partition("?")[0]:
            return Url(location)
        if location.startswith("//"):
            return Url(f"{scheme}:{location}")
        if not location.startswith("/"):
            location = url.target.partition("?")[0].rpartition("/")[0] + "/" + location
        return Url(f"{scheme}://{url.authority}{location}")
    except ValueError as e:
        raise HttpError(f"redirected to nowhere: {e}") from None


def _once(
    method: str, url: Url, body: bytes, deadline: float, extra: Mapping[str, str]
) -> tuple[int, dict[str, str], bytes]:
    try:
        with _connect(url, deadline) as sock:
            head = f"{method} {url.target} HTTP/1.1\r\nHost: {url.authority}\r\nUser-Agent: remora\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in extra.items())
            if body or method in ("POST", "PUT", "PATCH"):
                head += f"Content-Length: {len(body)}\r\n"
            sock.sendall(head.encode("ascii") + b"Connection: close\r\n\r\n" + body)
            return _Reader(sock, deadline).response(method)
    except TimeoutError:
        raise HttpError(f"no complete answer from {url.authority} in time") from None
    except (OSError, UnicodeError) as e:
        raise HttpError(f"{url.authority}: {getattr(e, 'strerror', None) or e}") from None


def _connect(url: Url, deadline: float) -> socket.socket:
    sock = socket.create_connection((url.host, url.port), max(0.001, deadline - time.monotonic()))
    if not url.tls:
        return sock
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=url.host)
    except BaseException:
        sock.close()
        raise


class _Reader:
    """Reads one response; every read is bounded by the deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.buffer = bytearray()

    def more(self) -> bool:
        """Read some bytes; False at the end of the connection."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        data = self.sock.recv(1 << 18)
        self.buffer += data
        return bool(data)

    def line(self) -> str:
        while (end := self.buffer.find(b"\n")) < 0:
            if len(self.buffer) > _LIMIT or not self.more():
                raise HttpError("the answer is not HTTP")
        text = self.buffer[:end].decode("latin-1").rstrip("\r")
        del self.buffer[: end + 1]
        return text

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self.more():
                raise HttpError("the answer was cut off")
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def response(self, method: str) -> tuple[int, dict[str, str], bytes]:
        status, headers = self.head()
        while 100 <= status < 200:
            status, headers = self.head()
        if method == "HEAD" or status in (204, 304):
            return status, headers, b""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return status, headers, self.chunks()
        if (length := headers.get("content-length")) is not None:
            if not (length.isascii() and length.isdigit()):
                raise HttpError("the answer is not HTTP")
            return status, headers, self.exactly(int(length))
        while self.more():
            pass
        return status, headers, bytes(self.buffer)

    def head(self) -> tuple[int, dict[str, str]]:
        words = self.line().split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not (words[1].isascii() and words[1].isdigit()):
            raise HttpError("the answer is not HTTP")
        headers: dict[str, str] = {}
        while line := self.line():
            if len(headers) > 1000:
                raise HttpError("the answer has too many headers")
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(words[1]), headers

    def chunks(self) -> bytes:
        out = bytearray()
        while True:
            size = self.line().partition(";")[0].strip()
            try:
                count = int(size, 16)
            except ValueError:
                raise HttpError("the answer was cut off") from None
            if count <= 0:
                return bytes(out)
            out += self.exactly(count)
            self.exactly(2)
