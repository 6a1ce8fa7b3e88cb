"""The http probe: one GET, redirects followed, 200 to 399 is well."""

import asyncio
import socket
import ssl
from urllib.parse import urljoin, urlsplit

import h11

from agent.config import HealthConfig
from agent.health.connect import connect

USER_AGENT = "istio-probe/1.0"
REDIRECTS = 10
FOLLOWED = (301, 302, 303, 307, 308)
HEAD_LIMIT = 64 << 10  # bytes of a response head


async def probe(config: HealthConfig) -> str:
    """Why the workload is not healthy, "" if it is. The caller bounds the time. Raises OSError, ssl.SSLError."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"{config.scheme}://{host}:{config.port}{config.path}"
    headers, own_host = list(config.headers), True
    for _ in range(REDIRECTS):
        answer = await _get(url, headers if own_host else [h for h in headers if h[0].lower() != "host"])
        if isinstance(answer, str):
            return answer
        status, location = answer
        if status in FOLLOWED and location:
            # A configured Host belongs to the server that was asked, so it stays for a relative target only.
            try:
                own_host = own_host and not urlsplit(location).netloc
                url = urljoin(url, location)
            except ValueError:
                return f"redirected to {location!r}, which cannot be asked"
            continue
        return "" if 200 <= status < 400 else f"HTTP probe failed with status code {status}"
    return f"stopped after {REDIRECTS} redirects"


async def _get(url: str, headers: list[tuple[str, str]]) -> tuple[int, str] | str:
    """(status, Location) of one request, or why there is none."""
    try:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        host, port = parts.hostname, parts.port or (443 if tls else 80)
    except ValueError:
        host, parts, port, tls = None, urlsplit(""), 0, False
    if not host or parts.scheme not in ("http", "https"):
        return f"redirected to {url!r}, which cannot be asked"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {name.lower() for name, _ in headers}
    standard = [("Host", parts.netloc.rpartition("@")[2]), ("User-Agent", USER_AGENT), ("Connection", "close")]
    fields = [(name, value) for name, value in standard if name.lower() not in given] + headers
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
    try:
        request = http.send(h11.Request(method="GET", target=_ascii(target), headers=fields))
        request += http.send(h11.EndOfMessage()) or b""
    except h11.LocalProtocolError as e:
        return f"the request cannot be written: {e}"
    sock = await connect(host, port)
    try:
        return await _exchange(sock, http, request or b"", host if tls else "")
    except h11.RemoteProtocolError as e:
        return f"the answer is not HTTP: {e}"


async def _exchange(sock: socket.socket, http: h11.Connection, request: bytes, tls_host: str) -> tuple[int, str] | str:
    """Owns `sock`. The body is not read: the head says everything, and a body may never end."""
    if tls_host:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as the kubelet does: it is about life
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=tls_host)
    else:
        reader, writer = await asyncio.open_connection(sock=sock)
    try:
        writer.write(request)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(HEAD_LIMIT))
            elif isinstance(event, h11.Response):
                location = next((value.decode("latin-1") for name, value in event.headers if name == b"location"), "")
                return event.status_code, location
            elif isinstance(event, h11.ConnectionClosed):
                return "the connection ended without an answer"
    finally:
        writer.transport.abort()


def _ascii(target: str) -> str:
    """Percent-encode what may not stand in a request line; escapes that are there stay."""
    return "".join(chr(b) if 0x20 < b < 0x7F else f"%{b:02X}" for b in target.encode("utf-8", "surrogateescape"))
