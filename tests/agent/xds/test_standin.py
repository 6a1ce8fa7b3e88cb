import asyncio

from agent.config import XdsCacheConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.model import XdsStatus
from agent.xds.cache import CLUSTER
from agent.xds.keeper import Keeper
from agent.xds.slices import Asked, Parts, split
from agent.xds.standin import StandIn
from agent.xds.wire import LISTENER, Flavour


class Rig:
    """A stand-in whose sends are collected; `names` is what the cache knows of clusters."""

    def __init__(self, names="ab", **changes):
        self.status = Latest(XdsStatus())
        self.now = 1.0
        self.keeper = Keeper(XdsCacheConfig(**changes), self.status, Recorder(), lambda: self.now)
        if names:
            entries = tuple((name, b"\x1a\x01" + name.encode()) for name in names)
            self.keeper.cache.accepted_delta(CLUSTER, Parts(entries, (), "v"), set(), wildcard=True)
        self.sent = []
        self.standin = StandIn(self.keeper, Flavour.DELTA, self.send)

    async def send(self, frame):
        self.sent.append([name for name, _ in split(Flavour.DELTA, frame).resources])

    def run(self):
        async def go():
            running = asyncio.create_task(self.standin.run())
            for _ in range(5):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait({running})

        asyncio.run(go())
        return self.sent


def test_it_answers_what_was_asked_before_and_after():
    rig = Rig()
    rig.standin.request(Asked(CLUSTER, held := (), held, frozenset("a")))
    assert not rig.standin.committed
    assert rig.standin.begin("gone")
    assert rig.standin.begin("gone still")
    rig.standin.request(Asked(LISTENER))
    assert rig.standin.committed
    assert rig.status.value.stale
    assert rig.run() == [["b"]]


def test_with_nothing_to_serve_it_does_not_begin():
    for rig in (Rig(""), Rig(enabled=False), Rig(max_bytes=1), Rig(max_age=0.5)):
        rig.standin.request(Asked(CLUSTER))
        assert not rig.standin.begin("gone")
        assert rig.run() == []
        assert not rig.status.value.stale


def test_once_over_it_is_silent():
    rig = Rig()
    rig.standin.over()
    rig.standin.request(Asked(CLUSTER))
    assert not rig.standin.begin("gone")
    assert rig.run() == []


def test_what_grows_too_old_meanwhile_is_not_served():
    rig = Rig(max_age=10)
    assert rig.standin.begin("gone")
    rig.now = 20.0
    rig.standin.request(Asked(CLUSTER))
    assert rig.run() == []
