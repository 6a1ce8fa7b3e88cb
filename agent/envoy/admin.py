"""A small HTTP/1.1 client for ports on this machine: Envoy's admin and statistics listeners."""

import asyncio
import os
from collections.abc import Iterable

import h11

from agent.errors import AttemptError
from agent.record import record

MAX_BODY = 64 * 1024 * 1024  # of one answer in bytes; Envoy's statistics of a large mesh take tens of megabytes
CHUNK = 65536
SCRAPE_TIMEOUT = 30.0  # seconds, when the scraper sets no limit of its own


@record
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Admin:
    """One request per connection to `host:port`; every failure is an AttemptError with one sentence."""

    def __init__(self, host: str, port: int, name: str = "Envoy's admin port", max_body: int = MAX_BODY) -> None:
        self._host, self._port, self._name, self._max_body = host, port, name, max_body

    async def get(self, target: str, timeout: float | None, headers: Iterable[tuple[str, str]] = ()) -> Answer:
        """GET; `timeout` in seconds covers everything from the connect to the last byte, None = no limit."""
        return await self.request("GET", target, timeout, headers)

    async def post(self, target: str, timeout: float | None) -> Answer:
        return await self.request("POST", target, timeout, [("content-length", "0")])

    async def request(
        self, method: str, target: str, timeout: float | None, headers: Iterable[tuple[str, str]] = ()
    ) -> Answer:
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(method, target, headers)
        except TimeoutError as error:
            raise AttemptError("timeout", f"{self._where} did not answer {target} within {timeout:g} s.") from error
        except OSError as error:
            # asyncio words a refused connection in its own way; the number says it shorter.
            why = os.strerror(error.errno) if error.errno else str(error)
            raise AttemptError("unavailable", f"{self._where} cannot be reached: {why}.") from error
        except h11.ProtocolError as error:
            raise AttemptError("protocol", f"{self._where} answered {target} with bad HTTP: {error}.") from error

    async def scrape(self, query: str, headers: Iterable[tuple[str, str]], timeout: float | None) -> bytes:
        """Envoy's metrics in Prometheus text, for an Admin of the statistics port. AttemptError unless it says 200."""
        target = "/stats/prometheus" + (f"?{query}" if query else "")
        answer = await self.get(target, SCRAPE_TIMEOUT if timeout is None else timeout, headers)
        if answer.status != 200:
            raise AttemptError("status", f"{self._where} answered {target} with status {answer.status}.")
        return answer.body

    @property
    def _where(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._name} ({host}:{self._port})"

    async def _exchange(self, method: str, target: str, headers: Iterable[tuple[str, str]]) -> Answer:
        host = f"[{self._host}]" if ":" in self._host else self._host
        # `^` and `$` in filters go out as they are, as Envoy's documentation shows them; h11 lets them pass.
        fields = [("host", f"{host}:{self._port}"), ("connection", "close"), *headers]
        protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=CHUNK)
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            request = h11.Request(method=method, target=target, headers=fields)
            writer.write((protocol.send(request) or b"") + (protocol.send(h11.EndOfMessage()) or b""))
            return await self._read(protocol, reader, target)
        finally:
            # Nothing more is wanted from it: no wait for the peer's close, which a stopped Envoy never sends.
            writer.transport.abort()

    async def _read(self, protocol: h11.Connection, reader: asyncio.StreamReader, target: str) -> Answer:
        status, headers, body, size = 0, (), list[bytes](), 0  # type: int, tuple[tuple[str, str], ...], list[bytes], int
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(await reader.read(CHUNK))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in event.headers)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > self._max_body:
                    raise AttemptError(
                        "too_large", f"{self._where} answered {target} with more than {self._max_body} bytes."
                    )
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, headers, b"".join(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("the connection closed before an answer")
