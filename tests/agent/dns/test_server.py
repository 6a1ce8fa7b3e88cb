import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import pytest

from agent.config import DnsConfig
from agent.dns import server
from agent.dns.server import DnsServer
from agent.errors import FatalError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import NameInfo
from tests.fakes.dns import FORWARDED, FakeResolver, resolvers, silence, started

Table = Mapping[str, NameInfo]
SEARCH = "demo.svc.cluster.local"
TABLE: Table = {
    "web.demo.svc.cluster.local": NameInfo(("10.1.0.1",), "Kubernetes", "web", "demo"),
    "many.example.com": NameInfo(tuple(f"10.9.0.{i}" for i in range(60))),
    "*.wild.example.com": NameInfo(("10.2.0.4",)),
}


class World:
    """A running server, its table, its resolver, and a client socket that sends and awaits datagrams."""

    def __init__(self, subject: DnsServer, table: Latest[Table | None], fake: FakeResolver, recorder: Recorder) -> None:
        self.subject, self.table, self.fake, self.recorder = subject, table, fake, recorder
        self.where = subject.udp[0].getsockname()
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.client.connect(self.where)

    async def raw(self, packet: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        self.client.send(packet)
        return await asyncio.wait_for(loop.sock_recv(self.client, 65535), 10)

    async def udp(self, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
        asked = dns.message.make_query(name, kind, **options)
        out = dns.message.from_wire(await self.raw(asked.to_wire()))
        assert asked.is_response(out)
        return out

    async def tcp(self, name: str, kind: str = "A") -> dns.message.Message:
        reader, writer = await asyncio.open_connection(*self.where)
        wire = dns.message.make_query(name, kind).to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        out = await asyncio.wait_for(reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")), 10)
        writer.close()
        return dns.message.from_wire(out)

    async def ask(self, name: str) -> list[str]:
        return addresses(await self.udp(name))


def addresses(out: dns.message.Message) -> list[str]:
    return sorted(r.address for s in out.answer for r in s if r.rdtype == 1)


Scenario = Callable[[World], Coroutine[Any, Any, None]]


def play(scenario: Scenario, tmp_path: Path, table: Table | None = TABLE, **options: Any) -> None:
    async def main() -> None:
        (tmp_path / "resolv.conf").write_text(f"nameserver 127.0.0.53\nsearch {SEARCH}\n")
        config = DnsConfig(True, "127.0.0.1:0", str(tmp_path / "resolv.conf"), "demo", SEARCH, **options)
        latest: Latest[Table | None] = Latest(table)
        recorder = Recorder()
        async with resolvers("127.0.0.53") as (port, (fake,)):
            subject = await started(config, latest, recorder, port)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(subject.run())
                world = World(subject, latest, fake, recorder)
                with world.client:
                    await scenario(world)
                running.cancel()
            with pytest.raises(ConnectionRefusedError), socket.socket() as late:
                late.connect(world.where)

    asyncio.run(main())


def test_mesh_names_are_answered_here_and_the_rest_is_forwarded(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for _ in range(3):  # the later ones from the cache
            assert await world.ask("web") == ["10.1.0.1"]
            assert await world.ask("x.wild.example.com") == ["10.2.0.4"]
            assert await world.ask("elsewhere.test") == [FORWARDED]
        assert addresses(await world.tcp("web.demo")) == ["10.1.0.1"]
        assert addresses(await world.tcp("elsewhere.test")) == [FORWARDED]
        assert world.fake.names() == ["elsewhere.test."] * 4
        stats = world.subject.stats
        assert (stats.requests, stats.cached, stats.upstream_requests, stats.upstream_failures) == (11, 4, 4, 0)

    play(scenario, tmp_path)


def test_until_the_first_table_everything_fails_and_the_server_is_not_ready(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        assert not world.subject.readiness.value.ready
        assert "name table" in world.subject.readiness.value.reason
        for out in (await world.udp("web"), await world.tcp("elsewhere.test")):
            assert out.rcode() == 2
        world.table.set({})
        await world.subject.readiness.until(lambda r: r.ready)
        assert await world.ask("web") == [FORWARDED]  # an empty table is a table
        assert [e.kind for e in world.recorder.events()] == ["table-loaded"]

    play(scenario, tmp_path, None)


def test_a_new_table_counts_from_the_next_query_on(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        assert await world.ask("web") == ["10.1.0.1"]
        assert await world.ask("elsewhere.test") == [FORWARDED]
        world.table.set({"elsewhere.test": NameInfo(("10.5.0.5",))})
        assert await world.ask("web") == [FORWARDED]
        assert await world.ask("elsewhere.test") == ["10.5.0.5"]
        world.table.set({"elsewhere.test": NameInfo(("10.5.0.5",))})  # the same again keeps the cache
        cached = world.subject.stats.cached
        await world.ask("web")
        assert await world.ask("elsewhere.test") == ["10.5.0.5"]
        assert world.subject.stats.cached == cached + 1
        assert [e.kind for e in world.recorder.events()] == ["table-loaded"]

    play(scenario, tmp_path)


def test_udp_answers_are_cut_to_the_clients_size_and_tcp_ones_are_whole(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        firsts = set()
        for _ in range(60):
            out = await world.udp("many.example.com")
            assert out.flags & dns.flags.TC
            firsts.add(out.answer[0][0].to_text())
        assert len(firsts) > 10
        assert not (await world.udp("many.example.com", use_edns=0, payload=1400)).flags & dns.flags.TC
        assert len(addresses(await world.tcp("many.example.com"))) == 60

    play(scenario, tmp_path)


def test_failing_resolvers_are_servfail_and_do_not_hold_up_mesh_names(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.fake.behaviour = silence
        waiting = asyncio.create_task(world.tcp("elsewhere.test"))
        assert await world.ask("web") == ["10.1.0.1"]
        assert (await waiting).rcode() == 2
        assert (await world.udp("elsewhere.test", use_edns=0)).rcode() == 2
        assert world.subject.stats.upstream_failures == 2

    play(scenario, tmp_path, timeout=0.2)


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        (b"\1\2\1\0\0\0" + bytes(6), 2),
        (b"\1\2\x29\0\0\1" + bytes(6), 4),
        (b"\1\2\1\0\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1", 1),
        (b"\1\2\1\0\0\1" + bytes(server.MAX_QUERY), 1),
    ],
)
def test_bad_packets_are_refused(packet: bytes, rcode: int, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        reply = await world.raw(packet)
        assert (reply[:2], reply[3] & 15) == (packet[:2], rcode)

    play(scenario, tmp_path)


def test_silence_for_what_is_no_query_and_no_end_for_anything(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for packet in (b"", b"\0" * 11, b"\1\2\x81\x80\0\1" + bytes(40)):
            world.client.send(packet)
        # The first thing to come back belongs to the last thing asked.
        assert await world.ask("web") == ["10.1.0.1"]

    play(scenario, tmp_path)


def test_a_taken_port_and_a_missing_resolv_conf_end_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            (tmp_path / "resolv.conf").write_text("")
            config = DnsConfig(True, f"127.0.0.1:{taken.getsockname()[1]}", str(tmp_path / "resolv.conf"))
            with pytest.raises(FatalError, match="Address already in use"):
                await DnsServer(config, Latest(None), Recorder()).start()
        with pytest.raises(FatalError, match="cannot read"):
            await DnsServer(DnsConfig(True, resolv_conf=str(tmp_path / "none")), Latest(None), Recorder()).start()

    asyncio.run(main())
