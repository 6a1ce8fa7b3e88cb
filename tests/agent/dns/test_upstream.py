import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import dns.message
import pytest

from agent.dns import upstream
from agent.dns.stats import DnsStats
from agent.dns.upstream import Upstream
from agent.events import Recorder
from tests.fakes.dns import FakeResolver, address, reply, resolvers, silence

Ask = Callable[[str], Awaitable[dns.message.Message | None]]
THREE = ("127.0.0.51", "127.0.0.52", "127.0.0.53")


class Bench:
    """An Upstream over fakes; `udp` and `tcp` give the parsed reply or None."""

    def __init__(self, port: int, servers: Sequence[str], parallel: bool, timeout: float) -> None:
        self.stats, self.recorder = DnsStats(), Recorder()
        self.upstream = Upstream(servers, parallel, timeout, self.stats, self.recorder, port)

    async def udp(self, name: str) -> dns.message.Message | None:
        asked = dns.message.make_query(name, "A")
        packet = asked.to_wire()
        got: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.upstream.forward(packet, packet[12:], got.set_result)
        return self._checked(asked, await asyncio.wait_for(got, 10))

    async def tcp(self, name: str) -> dns.message.Message | None:
        asked = dns.message.make_query(name, "A")
        packet = asked.to_wire()
        return self._checked(asked, await asyncio.wait_for(self.upstream.forward_tcp(packet, packet[12:]), 10))

    def _checked(self, asked: dns.message.Message, wire: bytes | None) -> dns.message.Message | None:
        if wire is None:
            return None
        out = dns.message.from_wire(wire)
        assert asked.is_response(out)
        return out

    def kinds(self) -> list[str]:
        return [e.kind for e in self.recorder.events()]


Scenario = Callable[[Bench, list[FakeResolver]], Coroutine[Any, Any, None]]


def play(
    scenario: Scenario, *ips: str, servers: Sequence[str] | None = None, parallel: bool = False, timeout: float = 5.0
) -> None:
    async def main() -> None:
        async with resolvers(*ips) as (port, fakes):
            bench = Bench(port, ips if servers is None else servers, parallel, timeout)
            try:
                await scenario(bench, fakes)
            finally:
                bench.upstream.close()

    asyncio.run(main())


def test_a_query_goes_out_unchanged_but_for_the_id_and_its_reply_comes_back_with_the_own() -> None:
    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        packet = dns.message.make_query("MiXed.Test", "A", use_edns=0, payload=1400, want_dnssec=True).to_wire()
        got: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        question = packet[12:-11]
        bench.upstream.forward(packet, question, got.set_result)
        answer = await got
        assert answer is not None
        assert answer[:2] == packet[:2]
        ((transport, seen),) = fakes[0].seen
        assert (transport, seen[2:]) == ("udp", packet[2:])
        await bench.upstream.forward_tcp(packet, question)
        assert [t for t, _ in fakes[0].seen] == ["udp", "tcp"]
        assert fakes[0].seen[1][1][2:] == packet[2:]
        assert (bench.stats.upstream_requests, bench.stats.upstream_failures, bench.stats.duration_count) == (2, 0, 2)

    play(scenario, "127.0.0.53")


def test_healthy_resolvers_share_the_load() -> None:
    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        for i in range(90):
            assert await bench.udp(f"f{i}.test")
        assert min(len(f.seen) for f in fakes) > 10

    play(scenario, *THREE)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_refusing_and_silent_resolvers_are_passed_over_and_then_left_for_last(transport: str) -> None:
    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        fakes[1].behaviour = silence
        ask: Ask = getattr(bench, transport)
        for i in range(30):
            assert await ask(f"f{i}.test")
        assert len(fakes[1].seen) < 5
        assert bench.stats.upstream_failures == 0

    play(scenario, *THREE[:2], servers=(*THREE[:2], "127.0.0.59"), timeout=0.1)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("parallel", [False, True])
def test_when_all_fail_there_is_no_answer(parallel: bool, transport: str) -> None:
    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        fakes[0].behaviour = silence
        ask: Ask = getattr(bench, transport)
        for i in range(3):
            assert await ask(f"f{i}.test") is None
        assert (bench.stats.upstream_requests, bench.stats.upstream_failures) == (3, 3)
        assert bench.kinds() == ["resolver-down"] * 2
        fakes[0].behaviour = address
        assert await ask("back.test")
        assert bench.kinds()[2:] == ["resolver-up"]

    play(scenario, "127.0.0.53", servers=("127.0.0.53", "127.0.0.59"), parallel=parallel, timeout=0.1)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("parallel", [False, True])
def test_without_resolvers_there_is_no_answer(parallel: bool, transport: str) -> None:
    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        assert await getattr(bench, transport)("a.test") is None
        assert bench.stats.upstream_failures == 1

    play(scenario, servers=(), parallel=parallel)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_in_parallel_the_first_answer_counts(transport: str) -> None:
    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        fakes[0].behaviour = fakes[1].behaviour = silence
        for i in range(3):
            assert await getattr(bench, transport)(f"p{i}.test")
        if transport == "udp":
            assert [len(f.seen) for f in fakes] == [3, 3, 3]

    play(scenario, *THREE, parallel=True, timeout=30)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_forged_and_broken_replies_are_skipped_while_waiting(transport: str) -> None:
    def behave(query: dns.message.Message, kind: str) -> Sequence[bytes]:
        good = reply(query, "77 A 192.0.2.53")
        other = dns.message.make_query("other.test", "A", id=query.id)
        forged = reply(query, "1 A 203.0.113.66")
        return [
            b"",
            b"\0",
            query.to_wire(),
            reply(other, "1 A 203.0.113.66"),
            bytes((forged[0] ^ 1,)) + forged[1:],
            good,
        ]

    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        fakes[0].behaviour = behave
        out = await getattr(bench, transport)("target.test")
        assert out is not None
        assert [r.address for r in out.answer[0]] == ["192.0.2.53"]

    play(scenario, "127.0.0.53")


def test_source_ports_change_and_their_sockets_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "LANE_QUERIES", 3)

    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        for i in range(20):
            assert await bench.udp(f"f{i}.test")
        assert len(bench.upstream._lanes) == 1
        fakes[0].behaviour = silence
        asyncs = [bench.udp(f"slow{i}.test") for i in range(20)]
        assert await asyncio.gather(*asyncs) == [None] * 20
        assert len(bench.upstream._lanes) <= 1

    play(scenario, "127.0.0.53", timeout=0.1)


def test_more_than_can_wait_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_PENDING", 5)

    async def scenario(bench: Bench, fakes: list[FakeResolver]) -> None:
        fakes[0].behaviour = silence
        packet = dns.message.make_query("a.test", "A").to_wire()
        got: list[bytes | None] = []
        for _ in range(7):
            bench.upstream.forward(packet, packet[12:], got.append)
        assert got == [None, None]

    play(scenario, "127.0.0.53", timeout=30)
