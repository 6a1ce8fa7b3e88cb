"""Big frames and peers that stop reading: nothing waits for what it must not wait for, and little is held."""

import asyncio
import os

import pytest

from agent.xds import wire
from agent.xds.wire import Flavour
from tests.component.test_xds import CDS, both, opened, request, response, world
from tests.fakes.plane import FakePlane

MIB = 1 << 20


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_first_delta_request_of_6_megabytes(tmp_path):
    @world
    async def test(relay, plane: FakePlane):
        frame = request(Flavour.DELTA, CDS, initial_resource_versions={f"c{i:05}": "v" * 100 for i in range(50_000)})
        assert len(frame) > 5 * MIB
        envoy = relay.envoy()
        await envoy.send(frame)
        stream = await plane.next_stream()
        assert await stream.next(30) == frame
        await envoy.close()

    test(tmp_path, Flavour.DELTA)


@both
def test_a_response_of_20_megabytes(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        frame = response(flavour, CDS, os.urandom(20 * MIB))
        stream.send(frame)
        assert await envoy.receive(60) == frame
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_thousands_of_small_frames_stay_in_order(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        down = [response(flavour, CDS, b"x", nonce=f"d{i}") for i in range(2000)]
        up = [request(flavour, CDS, response_nonce=f"u{i}") for i in range(2000)]
        stream.send(*down)

        async def send():
            for frame in up:
                await envoy.send(frame)

        sending = asyncio.create_task(send())
        assert [await envoy.receive(60) for _ in down] == down
        assert [await stream.next(60) for _ in up] == up
        await sending
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_requests_flow_while_envoy_does_not_read(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        down = [response(flavour, CDS, b"x" * MIB, nonce=f"d{i}") for i in range(40)]
        stream.send(*down)
        up = [request(flavour, CDS, response_nonce=f"u{i}") for i in range(1000)]
        for frame in up:
            await envoy.send(frame)
        assert [await stream.next(60) for _ in up] == up
        assert [await envoy.receive(60) for _ in down] == down
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_responses_flow_while_the_control_plane_does_not_read(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        stream.reading.clear()
        up = [request(flavour, CDS, response_nonce=f"u{i}" + "x" * 1000) for i in range(8000)]
        async with asyncio.timeout(60):
            for frame in up:
                await envoy.send(frame)
        down = [response(flavour, CDS, b"x" * 10_000, nonce=f"d{i}") for i in range(100)]
        stream.send(*down)
        assert [await envoy.receive(60) for _ in down] == down
        stream.reading.set()
        assert [await stream.next(60) for _ in up] == up
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_a_stalled_envoy_costs_a_few_frames(tmp_path, flavour):
    """200 MB wait in the control plane, not here; all of them arrive once Envoy reads again."""

    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        frame = response(flavour, CDS, os.urandom(4 * MIB))
        before = resident()
        stream.send(*[frame] * 50)
        seen = -1
        while seen != stream.sent:  # until the flow control of all the legs holds the control plane
            seen = stream.sent
            await asyncio.sleep(0.5)
        assert seen < 15
        assert resident() - before < 150 * MIB
        for _ in range(50):
            assert await envoy.receive(60) == frame
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_a_stalled_stream_can_be_replaced(tmp_path, flavour):
    @world
    async def test(relay, plane):
        old, old_stream = await opened(relay, plane)
        old_stream.send(*[response(flavour, CDS, b"x" * 4 * MIB)] * 10)
        while not old_stream.sent:
            await asyncio.sleep(0.01)
        new, new_stream = await opened(relay, plane)
        async with asyncio.timeout(10):
            await old_stream.closed.wait()
        frame = response(flavour, CDS, b"x")
        new_stream.send(frame)
        assert await new.receive() == frame
        await old.close()
        await new.close()

    test(tmp_path, flavour)


@pytest.mark.parametrize("count", [100])
def test_many_streams_at_once_leave_one(tmp_path, count):
    @world
    async def test(relay, plane):
        envoys = [relay.envoy() for _ in range(count)]
        await asyncio.gather(*(envoy.send(request(Flavour.DELTA, CDS)) for envoy in envoys))
        async with asyncio.timeout(30):
            await relay.status.until(lambda status: status.streams == count)
            live = []
            while len(live) != 1 or len(plane.opened) == 0:
                live = [stream for stream in plane.opened if not stream.closed.is_set()]
                await asyncio.sleep(0.02)
        assert wire.request_head(Flavour.DELTA, await live[0].next()).type_url == CDS
        live[0].send(response(Flavour.DELTA, CDS, b"x"))
        async with asyncio.timeout(10):
            await relay.status.until(lambda status: status.connected)
        await asyncio.gather(*(envoy.close() for envoy in envoys))

    test(tmp_path, Flavour.DELTA)
