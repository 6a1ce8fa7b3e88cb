"""The DNS proxy as the pod meets it: dnspython's own stub resolver, hostile packets, big tables."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncquery
import dns.asyncresolver
import dns.message
import dns.name
import dns.resolver
import pytest

from agent.config import DnsConfig
from agent.dns import table
from agent.dns.server import DnsServer
from agent.events import Recorder
from agent.latest import Latest
from agent.model import NameInfo
from agent.protos import names_pb2
from tests.fakes.dns import FORWARDED, FakeResolver, reply, resolvers, started

SEARCH = "demo.svc.cluster.local"


def services(count: int) -> bytes:
    """A name table as istiod sends it."""
    message = names_pb2.NameTable()
    for i in range(count):
        ns = "demo" if i % 2 else "other"
        message.table[f"s{i}.{ns}.svc.cluster.local"].CopyFrom(
            names_pb2.NameInfo(
                ips=[f"10.{i // 65536}.{i // 256 % 256}.{i % 256}"],
                registry="Kubernetes",
                shortname=f"s{i}",
                namespace=ns,
            )
        )
    message.table["www.example.com"].CopyFrom(names_pb2.NameInfo(ips=["10.9.9.9", "2001:db8::9"], registry="External"))
    return message.SerializeToString()


@asynccontextmanager
async def proxy(
    tmp_path: Path, payload: bytes, address: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[DnsServer, FakeResolver]]:
    (tmp_path / "resolv.conf").write_text(f"nameserver 127.0.0.53\nsearch {SEARCH} svc.cluster.local cluster.local\n")
    names: Latest[dict[str, NameInfo] | None] = Latest(table.decode(payload))
    config = DnsConfig(True, address, str(tmp_path / "resolv.conf"), "demo", SEARCH, timeout=2.0)
    async with resolvers("127.0.0.53") as (port, (fake,)):
        subject = await started(config, names, Recorder(), port)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(subject.run())
            yield subject, fake
            running.cancel()


def stub(subject: DnsServer, ndots: int) -> dns.asyncresolver.Resolver:
    """A stub resolver with the search list of a pod, using the proxy."""
    out = dns.asyncresolver.Resolver(configure=False)
    out.nameservers = ["127.0.0.1"]
    out.port = subject.udp[0].getsockname()[1]
    out.search = [dns.name.from_text(d) for d in (SEARCH, "svc.cluster.local", "cluster.local")]
    out.ndots, out.lifetime = ndots, 10
    return out


def nothing(query: dns.message.Message, transport: str) -> list[bytes]:
    return [reply(query, rcode=dns.rcode.NXDOMAIN)]


@pytest.mark.parametrize("ndots", [1, 5])
def test_a_stub_resolver_with_a_pods_search_list_finds_every_form_of_a_name(ndots: int, tmp_path: Path) -> None:
    async def main() -> None:
        async with proxy(tmp_path, services(4)) as (subject, fake):
            fake.behaviour = nothing
            client = stub(subject, ndots)
            for name, ip in (
                ("s1", "10.0.0.1"),
                ("s1.demo", "10.0.0.1"),
                ("s2.other", "10.0.0.2"),
                ("s2.other.svc.cluster.local", "10.0.0.2"),
                ("www.example.com", "10.9.9.9"),
            ):
                for tcp in (False, True):
                    answer = await client.resolve(name, "A", search=True, tcp=tcp)
                    assert [r.address for r in answer] == [ip], name
            with pytest.raises(dns.resolver.NoAnswer):
                await client.resolve("s1", "AAAA", search=True)
            with pytest.raises(dns.resolver.NXDOMAIN):
                await client.resolve("nowhere.test", "A", search=True)

    asyncio.run(main())


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::1]:0"])
def test_every_kind_of_listen_address(address: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with proxy(tmp_path, services(2), address) as (subject, _):
            where = "::1" if address.startswith("[") else "127.0.0.7"  # not the address that routing would choose
            port = subject.udp[0].getsockname()[1]
            for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
                out = await ask(dns.message.make_query("s1", "A"), where, 5, port)
                assert out.answer[0][0].to_text() == "10.0.0.1"
                out = await ask(dns.message.make_query("x.test", "A"), where, 5, port)
                assert out.answer[0][0].to_text() == FORWARDED

    asyncio.run(main())


def test_twenty_thousand_names(tmp_path: Path) -> None:
    async def main() -> None:
        async with proxy(tmp_path, services(20000)) as (subject, fake):
            port = subject.udp[0].getsockname()[1]
            for i in random.Random(1).sample(range(1, 20000, 2), 200):
                out = await dns.asyncquery.udp(dns.message.make_query(f"s{i}", "A"), "127.0.0.1", 5, port)
                assert out.answer[0][0].to_text() == f"10.0.{i // 256}.{i % 256}"
            assert not fake.seen

    asyncio.run(main())


def hostile(seed: int, count: int) -> list[bytes]:
    rnd, base = random.Random(seed), dns.message.make_query("s1.demo.svc.cluster.local", "A", use_edns=0).to_wire()
    out = []
    for i in range(count):
        damaged = bytearray(base)
        for _ in range(rnd.randrange(1, 6)):
            damaged[rnd.randrange(len(damaged))] = rnd.randrange(256)
        counts = struct.pack("!4H", *(rnd.randrange(65536) for _ in range(4)))
        out.append(
            [bytes(damaged), rnd.randbytes(rnd.randrange(80)), base[: rnd.randrange(len(base))],
             base[:4] + counts + base[12:], base[:12] + b"\xc0\x0c" + base[-4:]][i % 5]
        )  # fmt: skip
    return out


def test_hostile_packets_end_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with proxy(tmp_path, services(2)) as (subject, _):
            where = subject.udp[0].getsockname()
            loop = asyncio.get_running_loop()
            problems: list[dict[str, object]] = []
            loop.set_exception_handler(lambda _, context: problems.append(context))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
                for i, packet in enumerate(hostile(1, 3000)):
                    client.sendto(packet, where)
                    if i % 50 == 0:
                        await asyncio.sleep(0)
            for i, packet in enumerate(hostile(2, 100)):
                _, writer = await asyncio.open_connection(*where)
                writer.write(packet if i % 2 else struct.pack("!H", len(packet)) + packet)
                await writer.drain()
                writer.close()
            for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
                out = await ask(dns.message.make_query("s1", "A"), where[0], 10, where[1])
                assert out.answer[0][0].to_text() == "10.0.0.1"
            assert problems == []

    asyncio.run(main())


def test_hostile_replies_from_a_resolver_end_nothing(tmp_path: Path) -> None:
    rnd = random.Random(3)

    def garble(query: dns.message.Message, transport: str) -> list[bytes]:
        good = reply(query, *[f"5 A 10.0.0.{i}" for i in range(60)])
        return [good[: 12 + rnd.randrange(20)] + rnd.randbytes(rnd.randrange(1000)), good]

    async def main() -> None:
        async with proxy(tmp_path, services(2)) as (subject, fake):
            fake.behaviour = garble
            where = subject.udp[0].getsockname()
            loop = asyncio.get_running_loop()
            problems: list[dict[str, object]] = []
            loop.set_exception_handler(lambda _, context: problems.append(context))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
                client.connect(where)
                for i in range(200):
                    client.send(dns.message.make_query(f"h{i}.test", "A").to_wire())
                    assert len(await asyncio.wait_for(loop.sock_recv(client, 65535), 10)) <= 512
            out = await dns.asyncquery.udp(dns.message.make_query("s1", "A"), where[0], 10, where[1])
            assert out.answer[0][0].to_text() == "10.0.0.1"
            assert problems == []

    asyncio.run(main())
