"""A real TLS server in front of a plaintext one; as istiod, it verifies those client certificates that it is shown."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from contextlib import suppress

from tests.fakes.ca import SERVER_NAME, Root


class TlsFront:
    """Passes everything on to `backend` (host:port) once TLS stands; `async with` it.

    `trusts`: whose client certificates it believes; with another one the connection ends. `shown` has the SPIFFE URI
    ("" without a certificate) and the version of TLS of every connection that stood.
    """

    def __init__(self, root: Root, backend: str, trusts: Root, version: ssl.TLSVersion | None = None) -> None:
        self._pair = root.server(SERVER_NAME)
        self._backend = backend.rpartition(":")
        self._version = version
        self.trusts = trusts
        self.shown: list[tuple[str, str]] = []
        self.address = ""

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(self._pair))
            file.flush()
            context.load_cert_chain(file.name)
        context.load_verify_locations(cadata=self.trusts.pem.decode())
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["h2"])
        if self._version is not None:
            context.minimum_version = context.maximum_version = self._version
        return context

    async def __aenter__(self) -> TlsFront:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._tasks = {asyncio.ensure_future(self._accept())}
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        while True:
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self._tasks.add(asyncio.ensure_future(self._serve(sock)))

    async def _serve(self, sock: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self._context())
        except OSError:  # the client was not believed, or did not believe us
            return
        tls = transport.get_extra_info("ssl_object")
        names = (tls.getpeercert() or {}).get("subjectAltName", ())
        self.shown.append((next((value for kind, value in names if kind == "URI"), ""), tls.version()))
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        host, _, port = self._backend
        behind, ahead = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass(reader, ahead))
                group.create_task(_pass(behind, writer))
        finally:
            writer.close()
            ahead.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


def write_pair(directory: os.PathLike[str], pair: tuple[bytes, bytes]) -> tuple[str, str]:
    """(key file, chain file) with the content of `pair` (key, chain)."""
    paths = tuple(os.path.join(directory, name) for name in ("key.pem", "cert-chain.pem"))
    for path, data in zip(paths, pair, strict=True):
        with open(path, "wb") as f:
            f.write(data)
    return paths[0], paths[1]
