"""The control plane is away: Envoy is served what it accepted last, and handed over when it is back. Real sockets."""

import asyncio
import os
import tracemalloc
from contextlib import asynccontextmanager

import grpc
import pytest

from agent.config import XdsCacheConfig
from agent.protos import xds_pb2
from agent.xds import wire
from agent.xds.cache import CLUSTER, ENDPOINTS, SECRET
from agent.xds.wire import LISTENER, NAME_TABLE, Flavour
from tests.component.test_xds import both, request, response
from tests.fakes.ads_client import relaying
from tests.fakes.plane import Authority, FakePlane


def pushed(flavour, type_url, *names, nonce="n1", version="v1", removed=(), size=0):
    """A response with resources of these names."""
    if flavour is Flavour.DELTA:
        message = xds_pb2.DeltaResponse(type_url=type_url, nonce=nonce, system_version_info=version)
        message.removed_resources.extend(removed)
        rows = [message.resources.add(name=name, version=version).resource for name in names]
    else:
        message = xds_pb2.Response(type_url=type_url, nonce=nonce, version_info=version)
        rows = [message.resources.add() for name in names]
    for name, row in zip(names, rows, strict=True):
        row.type_url, row.value = type_url, xds_pb2.Node(id=name).SerializeToString()
        if size:
            row.value += xds_pb2.Resource(resource={"value": os.urandom(size)}).SerializeToString()
    return message.SerializeToString()


def read(flavour, frame):
    """(type, names, removed, nonce) of a response."""
    if flavour is Flavour.DELTA:
        message = xds_pb2.DeltaResponse.FromString(frame)
        names = [resource.name for resource in message.resources]
        return message.type_url, names, list(message.removed_resources), message.nonce
    message = xds_pb2.Response.FromString(frame)
    return message.type_url, [xds_pb2.Node.FromString(r.value).id for r in message.resources], [], message.nonce


def ack(flavour, type_url, nonce="n1", version="v1"):
    more = {} if flavour is Flavour.DELTA else {"version_info": version}
    return request(flavour, type_url, response_nonce=nonce, **more)


def holding(flavour, type_url, *names, version="v1"):
    """The first request of an Envoy that has something already."""
    if flavour is Flavour.DELTA:
        return request(flavour, type_url, initial_resource_versions=dict.fromkeys(names, version))
    return request(flavour, type_url, version_info=version)


class World:
    def __init__(self, folder, flavour, **cache):
        self.folder, self.flavour = folder, flavour
        self.authority = Authority()
        self.cache = XdsCacheConfig(**{"after": 0.2, "allow_disk": True, "owner": "me", **cache})
        self.plane = FakePlane(self.authority)

    @asynccontextmanager
    async def agent(self, **arguments):
        async with relaying(
            self.folder, self.plane, self.authority, self.flavour, cache=self.cache, hold=0.0, **arguments
        ) as relay:
            yield relay

    async def accepted(self, relay, *frames):
        """An Envoy that has accepted these responses; returns both ends of its stream."""
        envoy = relay.envoy()
        stream = None
        for n, frame in enumerate(frames):
            type_url, *_, nonce = read(self.flavour, frame)
            await envoy.send(request(self.flavour, type_url))
            stream = stream or await self.plane.next_stream()
            await stream.next()
            stream.send(frame)
            assert await envoy.receive() == frame
            await envoy.send(ack(self.flavour, type_url, nonce))
            await stream.next()
            assert n < 9
        return envoy, stream


def world(test):
    """Run `test(world)` with a control plane that has started."""

    def run(tmp_path, flavour, **cache):
        async def go():
            it = World(tmp_path, flavour, **cache)
            async with it.plane:
                await test(it)

        asyncio.run(go())

    return run


async def dark(it, relay, *frames):
    """The control plane goes, after this was accepted."""
    envoy, _ = await it.accepted(relay, *frames)
    await it.plane.stop()
    assert (await envoy.ended())[0] is grpc.StatusCode.UNAVAILABLE
    await envoy.close()


@both
def test_a_new_envoy_is_served_while_the_control_plane_is_gone_and_handed_over_when_it_is_back(tmp_path, flavour):
    @world
    async def test(it):
        async with it.agent() as relay:
            await dark(it, relay, pushed(flavour, CLUSTER, "a", "b"), pushed(flavour, LISTENER, "l", nonce="n2"))
            envoy = relay.envoy()
            await envoy.send(request(flavour, CLUSTER, node=xds_pb2.Node(id="me")))
            assert read(flavour, await envoy.receive()) == (CLUSTER, ["a", "b"], [], "cached-1")
            assert relay.status.value.stale
            await envoy.send(ack(flavour, CLUSTER, "cached-1"))
            await envoy.send(request(flavour, SECRET))
            await envoy.send(request(flavour, LISTENER))
            assert read(flavour, await envoy.receive()) == (LISTENER, ["l"], [], "cached-2")
            await envoy.send(ack(flavour, LISTENER, "cached-2"))

            await it.plane.start()
            stream = await it.plane.next_stream(15)
            asked = await stream.next()
            assert wire.request_head(flavour, asked).type_url == CLUSTER
            assert stream.requests.empty()  # one question is enough to see whether it answers
            stream.send(pushed(flavour, CLUSTER, "a"))
            assert await envoy.ended() == (grpc.StatusCode.OK, "")
            await envoy.close()

            envoy = relay.envoy()
            first = holding(flavour, CLUSTER, "a", "b")
            await envoy.send(first)
            stream = await it.plane.next_stream()
            assert await stream.next() == first
            news = pushed(flavour, CLUSTER, "a", nonce="n3", removed=["b"])
            stream.send(news)
            assert await envoy.receive() == news
            assert not relay.status.value.stale
            kinds = [kind for kind in relay.kinds() if kind in ("stale", "live")]
            assert kinds == ["stale", "live"]
            await envoy.close()

    test(tmp_path, flavour)


@both
def test_a_control_plane_that_accepts_and_says_nothing(tmp_path, flavour):
    @world
    async def test(it):
        async with it.agent() as relay:
            envoy, _ = await it.accepted(relay, pushed(flavour, CLUSTER, "a"))
            await envoy.close()
            envoy = relay.envoy()
            await envoy.send(request(flavour, CLUSTER))
            stream = await it.plane.next_stream()
            assert read(flavour, await envoy.receive()) == (CLUSTER, ["a"], [], "cached-1")
            await envoy.send(ack(flavour, CLUSTER, "cached-1"))
            await envoy.send(request(flavour, LISTENER))
            stream.send(pushed(flavour, CLUSTER, "z"))  # at last; but what Envoy has from the cache it does not know
            assert await envoy.ended() == (grpc.StatusCode.OK, "")
            assert [wire.request_head(flavour, await stream.next()).nonce] == [""]
            await envoy.close()

    test(tmp_path, flavour)


@both
def test_an_envoy_that_lacks_nothing_keeps_its_stream_when_the_answer_comes_late(tmp_path, flavour):
    @world
    async def test(it):
        async with it.agent() as relay:
            envoy, _ = await it.accepted(relay, pushed(flavour, CLUSTER, "a"))
            await envoy.close()
            envoy = relay.envoy()
            first = holding(flavour, CLUSTER, "a")
            await envoy.send(first)
            stream = await it.plane.next_stream()
            assert await stream.next() == first
            async with asyncio.timeout(10):
                await relay.status.until(lambda status: status.stale)
            # Asked for while stale: unknown to the cache, so it stays open, and reaches the control plane.
            more = request(flavour, ENDPOINTS, **{_names(flavour): ["e"]})
            await envoy.send(more)
            assert await stream.next() == more
            late = pushed(flavour, ENDPOINTS, "e", nonce="late")
            stream.send(late)
            assert await envoy.receive() == late
            assert not relay.status.value.stale
            await envoy.close()

    test(tmp_path, flavour)


def _names(flavour):
    return "resource_names_subscribe" if flavour is Flavour.DELTA else "resource_names"


@both
def test_a_refusing_control_plane_counts_as_away(tmp_path, flavour):
    @world
    async def test(it):
        async with it.agent() as relay:
            envoy, _ = await it.accepted(relay, pushed(flavour, CLUSTER, "a"))
            await envoy.close()
            envoy = relay.envoy()
            await envoy.send(request(flavour, CLUSTER))
            stream = await it.plane.next_stream()
            stream.end(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
            assert read(flavour, await envoy.receive()) == (CLUSTER, ["a"], [], "cached-1")
            [message] = [event.message for event in relay.recorder.events() if event.kind == "stale"]
            assert "who are you?" in message
            await envoy.close()

    test(tmp_path, flavour)


@both
@pytest.mark.parametrize("cache", [{"enabled": False}, {"max_bytes": 10}, {"max_age": 0.0}], ids=str)
def test_without_a_cache_the_failure_reaches_envoy(tmp_path, flavour, cache):
    @world
    async def test(it):
        async with it.agent() as relay:
            await dark(it, relay, pushed(flavour, CLUSTER, "a-name-of-more-than-ten-bytes"))
            envoy = relay.envoy()
            await envoy.send(request(flavour, CLUSTER))
            assert (await envoy.ended())[0] is grpc.StatusCode.UNAVAILABLE
            await envoy.close()
            assert ("cache-off" in relay.kinds()) == ("max_bytes" in cache)

    test(tmp_path, flavour, **cache)


@both
def test_what_envoy_refused_and_secrets_are_not_served(tmp_path, flavour):
    @world
    async def test(it):
        async with it.agent() as relay:
            envoy, stream = await it.accepted(
                relay, pushed(flavour, CLUSTER, "a"), pushed(flavour, SECRET, "s", nonce="n2")
            )
            bad = pushed(flavour, CLUSTER, "a", "bad", nonce="n3", version="v2")
            stream.send(bad)
            assert await envoy.receive() == bad
            await envoy.send(request(flavour, CLUSTER, response_nonce="n3", error_detail=xds_pb2.Status(message="no")))
            await stream.next()
            await it.plane.stop()
            await envoy.ended()
            await envoy.close()
            envoy = relay.envoy()
            await envoy.send(request(flavour, SECRET))
            await envoy.send(request(flavour, CLUSTER))
            assert read(flavour, await envoy.receive()) == (CLUSTER, ["a"], [], "cached-1")
            await envoy.close()

    test(tmp_path, flavour)


@both
def test_the_agent_itself_was_restarted(tmp_path, flavour):
    names = []

    @world
    async def test(it):
        handlers = {NAME_TABLE: names.append}
        async with it.agent(handlers=handlers, subscribe_names=True) as relay:
            envoy, stream = await it.accepted(relay, pushed(flavour, CLUSTER, "a"))
            await envoy.send(request(flavour, LISTENER))
            await stream.next()
            assert wire.request_head(flavour, await stream.next()).type_url == NAME_TABLE
            stream.send(response(flavour, NAME_TABLE, b"the names"))
            assert wire.request_head(flavour, await stream.next()).nonce == "n1"
            await envoy.close()
        assert names == [b"the names"]
        await it.plane.stop()
        async with it.agent(handlers=handlers, subscribe_names=True) as relay:
            assert names == [b"the names"] * 2
            envoy = relay.envoy()
            await envoy.send(request(flavour, CLUSTER))
            assert read(flavour, await envoy.receive()) == (CLUSTER, ["a"], [], "cached-1")
            assert relay.kinds()[0] == "restored"
            await envoy.close()
        # Somebody else's configuration is nobody's business.
        it.cache = XdsCacheConfig(after=0.2, state_dir=str(tmp_path), allow_disk=True, owner="another")
        async with it.agent() as relay:
            envoy = relay.envoy()
            await envoy.send(request(flavour, CLUSTER))
            assert (await envoy.ended())[0] is grpc.StatusCode.UNAVAILABLE
            await envoy.close()

    test(tmp_path, flavour, state_dir=str(tmp_path))


@both
def test_a_push_of_20_megabytes_is_held_once(tmp_path, flavour):
    """Counted by the interpreter: responses, slices and names, of the agent and of the fakes around it."""
    megabyte = 1 << 20

    @world
    async def test(it):
        frames = [
            pushed(flavour, CLUSTER, *(f"cluster-{i}" for i in range(400)), nonce=f"n{n}", size=50_000)
            for n in range(3)
        ]
        async with it.agent() as relay:
            envoy, stream = await it.accepted(relay, pushed(flavour, CLUSTER, "a"))
            tracemalloc.start()
            try:
                for n, frame in enumerate(frames):
                    stream.send(frame)
                    await envoy.receive(60)
                    await envoy.send(ack(flavour, CLUSTER, f"n{n}"))
                    await stream.next()
                held = tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
            print(f"{len(frames[0])} bytes of configuration cost {held}")
            assert 19 * megabyte < held < 1.2 * len(frames[0])
            await envoy.close()

    test(tmp_path, flavour)
