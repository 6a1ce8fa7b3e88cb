"""One HTTP/1.1 connection of the status server: h11 between a socket and a handler, with limits."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping

import h11

from agent.record import fresh, record

CHUNK = 16384
MAX_HEADER = 64 * 1024  # bytes of one request's head
MAX_BODY = 64 * 1024  # bytes of one request's body; nothing here needs any
HEADER_TIMEOUT = 10.0  # seconds for a whole request once its first byte is there
IDLE_TIMEOUT = 120.0  # seconds between two requests; Envoy pools its connections
WRITE_TIMEOUT = 30.0  # seconds for a peer to take an answer
COMPRESS_FROM = 1024  # bytes


@record
class Request:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case; the first of equal names
    peer: str  # IP address

    @property
    def local(self) -> bool:
        """The TCP peer is this machine; forwarding headers never make a peer local."""
        return self.peer.startswith("127.") or self.peer == "::1" or self.peer.startswith("::ffff:127.")


@record
class Response:
    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = fresh(factory=dict)
    after: Callable[[], None] | None = None  # called once the answer is with the kernel


Handler = Callable[[Request], Awaitable[Response]]


async def serve(connection: socket.socket, handler: Handler) -> None:
    """Answer requests until the peer leaves, is too slow or breaks the rules; closes the socket."""
    loop = asyncio.get_running_loop()
    protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
    try:
        peer = str(connection.getpeername()[0])
        while True:
            try:
                request = await _receive(protocol, connection, peer)
            except h11.RemoteProtocolError as error:
                await _refuse(protocol, connection, error)
                return
            if request is None:
                return
            response = await handler(request)
            async with asyncio.timeout(WRITE_TIMEOUT):
                await loop.sock_sendall(connection, _encode(protocol, request, response))
            if response.after is not None:
                response.after()
            if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
                return
            protocol.start_next_cycle()
    except (OSError, TimeoutError):
        return  # the peer left or sleeps: nobody is there to tell
    finally:
        connection.close()


async def _receive(protocol: h11.Connection, connection: socket.socket, peer: str) -> Request | None:
    """The next whole request; None when the peer closed. TimeoutError when it takes too long."""
    request: Request | None = None
    size = 0
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(IDLE_TIMEOUT) as limit:
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                if protocol.they_are_waiting_for_100_continue:
                    await loop.sock_sendall(
                        connection, protocol.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                    )
                data = await loop.sock_recv(connection, CHUNK)
                if size == 0 and request is None and protocol.their_state is h11.IDLE and data:
                    limit.reschedule(min(limit.when() or 0.0, loop.time() + HEADER_TIMEOUT))
                protocol.receive_data(data)
            elif isinstance(event, h11.Request):
                path, _, query = event.target.decode("latin-1").partition("?")
                headers: dict[str, str] = {}
                for name, value in event.headers:
                    headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
                request = Request(event.method.decode("ascii"), path, query, headers, peer)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > MAX_BODY:
                    raise h11.RemoteProtocolError("the request body is too large", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:  # ConnectionClosed, or PAUSED after a refused upgrade
                return None


async def _refuse(protocol: h11.Connection, connection: socket.socket, error: h11.RemoteProtocolError) -> None:
    if protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = f"{error}\n".encode()
    head = h11.Response(
        status_code=error.error_status_hint or 400,
        headers=[("content-type", "text/plain"), ("content-length", str(len(body))), ("connection", "close")],
    )
    async with asyncio.timeout(WRITE_TIMEOUT):
        await asyncio.get_running_loop().sock_sendall(connection, (protocol.send(head) or b"") + body)


def _encode(protocol: h11.Connection, request: Request, response: Response) -> bytes:
    body = response.body
    headers = [*response.headers.items()]
    if body:
        headers.append(("content-type", response.content_type))
    if len(body) >= COMPRESS_FROM:
        headers.append(("vary", "accept-encoding"))
        if _wants_gzip(request.headers.get("accept-encoding", "")):
            import gzip  # few ask for it

            body = gzip.compress(body, 1)
            headers.append(("content-encoding", "gzip"))
    headers.append(("content-length", str(len(body))))
    out = protocol.send(h11.Response(status_code=response.status, headers=headers)) or b""
    if request.method != "HEAD":
        out += protocol.send(h11.Data(data=body)) or b""
    return out + (protocol.send(h11.EndOfMessage()) or b"")


def _wants_gzip(accept: str) -> bool:
    for part in accept.lower().split(","):
        coding, *parameters = [word.strip() for word in part.split(";")]
        if coding == "gzip":
            return not any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
    return False
