"""A small real HTTP proxy that knows CONNECT only, with names of its own."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from agent.config import HttpProxy
from agent.httpproxy import parse


@dataclass
class ConnectProxy:
    """`names`: what it takes for which address; `credentials`: USER:PASSWORD that it wants; `hangs`: says nothing."""

    names: Mapping[str, str]
    credentials: str = ""
    hangs: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)  # every target that somebody asked for
    through: int = 0  # bytes that came back through tunnels

    def config(self, credentials: str = "", exceptions: str = "") -> HttpProxy:
        """What the agent makes of HTTPS_PROXY and NO_PROXY."""
        return parse(f"http://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}", exceptions)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            return  # one of both has gone
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = first.split(" ")
        fields = dict(line.split(": ", 1) for line in lines)
        assert (method, version, fields["Host"]) == ("CONNECT", "HTTP/1.1", target)
        self.asked.append(target)
        if self.hangs:
            await reader.read()
            return
        wanted = f"Basic {base64.b64encode(self.credentials.encode()).decode()}"
        if self.credentials and fields.get("Proxy-Authorization") != wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
            return
        if target not in self.names:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nno.\n")
            return
        host, _, port = self.names[target].rpartition(":")
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        with suppress(OSError):
            # What the server says at once goes into the same segment as our answer.
            early = b""
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    early = await server_reader.read(1 << 16)
            writer.write(b"HTTP/1.1 200 Connection established\r\nVia: fake\r\n\r\n" + early)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, server_writer, False), name="proxy upwards")
                group.create_task(self._pass(server_reader, writer, True), name="proxy downwards")

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.through += len(data) if back else 0
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()


@asynccontextmanager
async def proxying(names: Mapping[str, str], credentials: str = "", hangs: bool = False) -> AsyncIterator[ConnectProxy]:
    """It ends with the block, and its tunnels too."""
    proxy = ConnectProxy(names, credentials, hangs)
    tasks: list[asyncio.Task[None]] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.create_task(proxy.serve(reader, writer), name="proxy connection"))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ended:
        if isinstance(end, Exception):
            raise end
