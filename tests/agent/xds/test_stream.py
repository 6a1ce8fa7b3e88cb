import asyncio

import pytest

from agent.config import XdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.protos import xds_pb2
from agent.xds import wire
from agent.xds.dial import Dialler
from agent.xds.ending import AGENT, ENVOY, Ending
from agent.xds.ledger import Ledger
from agent.xds.stream import Common, Stream
from agent.xds.wire import NAME_TABLE, Flavour
from tests.fakes.ads_client import peer_config
from tests.fakes.plane import FakePlane


class Envoy:
    """The server's end of a stream: frames to be read, then nothing, or the end of the stream."""

    def __init__(self, *frames, eof=False):
        self.frames = [*frames, None] if eof else list(frames)
        self.written = []

    async def read(self):
        if not self.frames:
            await asyncio.get_running_loop().create_future()
        return self.frames.pop(0)

    async def write(self, message):
        self.written.append(message)


class Peers:
    """A stream with a silent control plane that it can connect to."""

    def __init__(self, folder, plane, handlers=()):
        config = XdsConfig(socket_path="", plane=peer_config(folder, None, plane.address))
        self.recorder, self.relayed, self.ledger = Recorder(), [], Ledger()
        dialler = Dialler(config.plane)
        self.owners = asyncio.Event()
        self.owners.set()
        common = Common(
            config, dict(handlers), Latest(()), self.recorder, dialler, self.ledger, self.relayed.append, self.owners
        )
        self.stream = Stream(Flavour.DELTA, common, lambda _: None, lambda _: None)


def with_stream(folder, test, handlers=()):
    async def go():
        async with FakePlane() as plane:
            await test(Peers(folder, plane, handlers), plane)

    asyncio.run(go())


SUBSCRIPTION = wire.subscription(Flavour.DELTA, wire.LISTENER)


def test_envoys_end_is_a_good_end(tmp_path):
    async def test(peers, plane):
        assert await peers.stream.run(Envoy(SUBSCRIPTION, eof=True)) == Ending(by=ENVOY)
        assert peers.relayed == [len(SUBSCRIPTION)]

    with_stream(tmp_path, test)


def test_the_first_ending_counts(tmp_path):
    async def test(peers, plane):
        first = Ending("ABORTED", "first", by=AGENT)
        peers.stream.end(first)
        peers.stream.end(Ending())
        assert await peers.stream.run(Envoy()) == first

    with_stream(tmp_path, test)


def test_a_frame_that_is_no_request(tmp_path):
    async def test(peers, plane):
        ending = await peers.stream.run(Envoy(b"garbage"))
        assert (ending.code, ending.by) == ("INVALID_ARGUMENT", AGENT)

    with_stream(tmp_path, test)


def test_cancelling_ends_the_conversation_and_leaves_no_task(tmp_path):
    async def test(peers, plane):
        before = asyncio.all_tasks()
        running = asyncio.create_task(peers.stream.run(Envoy(SUBSCRIPTION)))
        conversation = await plane.next_stream()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(10):
            await conversation.closed.wait()
            while any(task.get_name().startswith("xds") for task in asyncio.all_tasks() - before):
                await asyncio.sleep(0)

    with_stream(tmp_path, test)


def name_table(value):
    message = xds_pb2.DeltaResponse(type_url=NAME_TABLE, nonce="n")
    resource = message.resources.add().resource
    resource.type_url, resource.value = NAME_TABLE, value
    return message.SerializeToString()


def test_a_handler_refuses_with_value_error(tmp_path):
    def refuse(value):
        raise ValueError("too odd")

    async def test(peers, plane):
        envoy = Envoy(SUBSCRIPTION)
        running = asyncio.create_task(peers.stream.run(envoy))
        conversation = await plane.next_stream()
        conversation.send(name_table(b"x"))
        frames = [await conversation.next() for _ in range(3)]
        assert wire.request_head(Flavour.DELTA, frames[2]) == wire.Head(NAME_TABLE, "n", error="too odd")
        assert [event.kind for event in peers.recorder.events()] == ["refused"]
        assert envoy.written == []
        peers.stream.end(Ending())
        await running

    with_stream(tmp_path, test, {NAME_TABLE: refuse})


def test_what_comes_before_its_owner_is_at_work_is_taken_later_and_blocks_nobody(tmp_path):
    taken = []

    async def test(peers, plane):
        peers.owners.clear()
        envoy = Envoy(SUBSCRIPTION)
        running = asyncio.create_task(peers.stream.run(envoy))
        conversation = await plane.next_stream()
        for_envoy = xds_pb2.DeltaResponse(type_url=wire.LISTENER, nonce="l").SerializeToString()
        conversation.send(name_table(b"early"), name_table(b"late"), for_envoy)
        await conversation.next()  # Envoy's request
        await conversation.next()  # our subscription
        async with asyncio.timeout(10):
            while envoy.written != [for_envoy]:
                await asyncio.sleep(0.01)
        assert taken == []
        assert conversation.requests.empty()
        peers.owners.set()
        for _ in range(2):
            assert wire.request_head(Flavour.DELTA, await conversation.next()) == wire.Head(NAME_TABLE, "n")
        assert taken == [b"early", b"late"]
        conversation.send(name_table(b"later still"))
        await conversation.next()
        assert taken[2:] == [b"later still"]
        peers.stream.end(Ending())
        await running

    with_stream(tmp_path, test, {NAME_TABLE: taken.append})


def test_a_handler_with_a_defect_ends_the_stream(tmp_path):
    def defect(value):
        raise ZeroDivisionError

    async def test(peers, plane):
        running = asyncio.create_task(peers.stream.run(Envoy(SUBSCRIPTION)))
        conversation = await plane.next_stream()
        conversation.send(name_table(b"x"))
        with pytest.raises(ExceptionGroup):
            await running
        async with asyncio.timeout(10):
            await conversation.closed.wait()

    with_stream(tmp_path, test, {NAME_TABLE: defect})
