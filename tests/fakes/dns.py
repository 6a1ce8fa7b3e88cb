"""A resolver on loopback, UDP and TCP, that says what the test wants it to say."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from agent.config import DnsConfig
from agent.dns.server import DnsServer
from agent.errors import FatalError

FORWARDED = "192.0.2.53"
# (query, "udp" | "tcp") -> wire replies, sent in this order
Behaviour = Callable[[dns.message.Message, str], Sequence[bytes]]


def reply(query: dns.message.Message, *rrsets: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    """A response to `query`; each row is "ttl type data", owned by the question's name."""
    out = dns.message.make_response(query, recursion_available=True)
    out.set_rcode(rcode)
    for row in rrsets:
        ttl, kind, data = row.split(" ", 2)
        out.find_rrset(
            out.answer, query.question[0].name, dns.rdataclass.IN, dns.rdatatype.from_text(kind), create=True
        ).update(dns.rdataset.from_text("IN", kind, int(ttl), data))
    return out.to_wire(max_size=65535)


def address(query: dns.message.Message, transport: str) -> Sequence[bytes]:
    """The default behaviour: one address for every name."""
    return [reply(query, f"77 A {FORWARDED}")]


def silence(query: dns.message.Message, transport: str) -> Sequence[bytes]:
    return []


class FakeResolver(asyncio.DatagramProtocol):
    """`seen` has (transport, query as received); `behaviour` may be replaced at any time."""

    def __init__(self, behaviour: Behaviour = address) -> None:
        self.behaviour = behaviour
        self.seen: list[tuple[str, bytes]] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.seen.append(("udp", data))
        assert self.transport is not None
        for wire in self._replies(data, "udp"):
            self.transport.sendto(wire, addr)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.read(2):
                data = await reader.readexactly(int.from_bytes(head, "big"))
                self.seen.append(("tcp", data))
                for wire in self._replies(data, "tcp"):
                    writer.write(len(wire).to_bytes(2, "big") + wire)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _replies(self, data: bytes, transport: str) -> Sequence[bytes]:
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return [data[:2] + b"\x80\1" + bytes(8)]  # FORMERR
        return self.behaviour(query, transport)

    def names(self) -> list[str]:
        return [str(dns.message.from_wire(wire).question[0].name) for _, wire in self.seen]


async def started(config: DnsConfig, *more: Any) -> DnsServer:
    """A server on a free port: the one that UDP is given may be taken for TCP, then another one is tried."""
    for _ in range(8):
        server = DnsServer(config, *more)
        with suppress(FatalError):
            await server.start()
            return server
    raise AssertionError("no port is free for UDP and TCP")


@asynccontextmanager
async def resolvers(*ips: str) -> AsyncIterator[tuple[int, list[FakeResolver]]]:
    """One fake per address, all on one free port: (port, fakes)."""
    loop = asyncio.get_running_loop()
    fakes, closers = [], []
    port = 0
    try:
        for ip in ips:
            fake = FakeResolver()
            transport, _ = await loop.create_datagram_endpoint(lambda fake=fake: fake, local_addr=(ip, port))
            closers.append(transport.close)
            port = transport.get_extra_info("sockname")[1]
            server = await asyncio.start_server(fake.serve_tcp, ip, port, family=socket.AF_UNSPEC)
            closers.append(server.close)
            fakes.append(fake)
        yield port, fakes
    finally:
        for close in closers:
            close()
