"""The gate in front of a fake Envoy that is being configured, gets live, crashes and comes back."""

import asyncio
from pathlib import Path

from agent.envoy.readiness import EnvoyReadiness
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState, Readiness
from tests.fakes.envoy import FakeEnvoy, stats, wait_for

RUNNING = EnvoyState(EnvoyPhase.RUNNING, pid=1)


class World:
    """A gate, the state it watches and a running fake."""

    def __init__(self, fake: FakeEnvoy) -> None:
        self.fake = fake
        self.state = Latest(RUNNING)
        self.gate = EnvoyReadiness(fake.config, self.state)

    def ask(self) -> Readiness:
        return asyncio.run(self.many(1))[0]

    async def many(self, n: int) -> list[Readiness]:
        return await asyncio.gather(*(self.gate() for _ in range(n)))


def test_the_way_to_ready_and_back(tmp_path: Path) -> None:
    with FakeEnvoy(tmp_path) as fake:
        envoy = fake.spawn()
        try:
            wait_for(fake.starts)
            world = World(fake)
            fake.set_stats("")
            assert "is Istiod running?" in world.ask().reason
            fake.set_stats(stats(lds=0))
            assert "not fully received" in world.ask().reason
            fake.set_stats(stats(state=3))
            assert "INITIALIZING" in world.ask().reason
            fake.set_stats(stats(cds=0, lds=0))
            assert world.ask().ready, "the configuration was seen and is not asked for again"
            asked = len(fake.requests())
            assert world.ask().ready
            assert len(fake.requests()) == asked, "a ready Envoy is left alone"

            world.state.set(EnvoyState(EnvoyPhase.RESTARTING, crashes=1, last_exit="was killed by SIGSEGV"))
            assert world.ask() == Readiness(False, "Envoy is not running: restarting (it was killed by SIGSEGV)")
            world.state.set(EnvoyState(EnvoyPhase.RUNNING, pid=2, crashes=1))
            assert "is Istiod running?" in world.ask().reason, "another process has to prove itself"
            fake.set_stats(stats())
            assert world.ask().ready
            world.state.set(EnvoyState(EnvoyPhase.DRAINING, pid=2, crashes=1))
            assert world.ask().ready, "the request to end is another gate's business"
            world.state.set(EnvoyState(EnvoyPhase.GIVEN_UP, crashes=6))
            assert not world.ask().ready
        finally:
            envoy.kill()
            envoy.reap()


def test_many_probes_are_one_conversation(tmp_path: Path) -> None:
    with FakeEnvoy(tmp_path) as fake:
        envoy = fake.spawn()
        try:
            wait_for(fake.starts)
            fake.set_stats(stats(cds=0))
            world = World(fake)
            answers = asyncio.run(world.many(200))
            assert not any(answer.ready for answer in answers)
            assert len(fake.requests()) <= 3
        finally:
            envoy.kill()
            envoy.reap()


def test_an_envoy_that_does_not_listen(tmp_path: Path) -> None:
    with FakeEnvoy(tmp_path) as fake:
        answer = World(fake).ask()
        assert not answer.ready
        assert "cannot be reached: Connection refused" in answer.reason


def test_an_answer_of_a_process_that_died_meanwhile_does_not_count(tmp_path: Path) -> None:
    with FakeEnvoy(tmp_path) as fake:
        envoy = fake.spawn()
        try:
            wait_for(fake.starts)
            world = World(fake)

            async def run() -> Readiness:
                async with asyncio.TaskGroup() as group:
                    asking = group.create_task(world.gate())
                    await asyncio.sleep(0)
                    world.state.set(EnvoyState(EnvoyPhase.RUNNING, pid=2, crashes=1))
                return asking.result()

            assert asyncio.run(run()) == Readiness(False, "Envoy is restarting")
        finally:
            envoy.kill()
            envoy.reap()
