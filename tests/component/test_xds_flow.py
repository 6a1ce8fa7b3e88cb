"""Big frames and peers that stop reading: nothing waits for what it must not wait for, and little is held."""

import asyncio
import contextlib
import os

import grpc

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
def test_the_status_is_told_although_a_request_is_stuck(tmp_path, flavour):
    @world
    async def test(relay, plane):
        for _ in range(20):
            envoy, stream = await opened(relay, plane)
            stream.reading.clear()
            for _ in range(4):
                await envoy.send(request(flavour, CDS, response_nonce="x" * MIB))
            stream.end(grpc.StatusCode.PERMISSION_DENIED, "because")
            assert await envoy.ended() == (grpc.StatusCode.PERMISSION_DENIED, "because")
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
        assert seen < 8
        assert resident() - before < 80 * MIB
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


def test_of_many_streams_at_once_one_remains(tmp_path):
    count = 100

    @world
    async def test(relay, plane):
        envoys = [relay.envoy() for _ in range(count)]
        for number, envoy in enumerate(envoys):
            # It may have been replaced already.
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await envoy.send(request(Flavour.DELTA, CDS, response_nonce=str(number)))
        ends = {asyncio.create_task(envoy.ended(60)): number for number, envoy in enumerate(envoys)}
        replaced = set()
        async with asyncio.timeout(60):
            while len(replaced) < count - 1:
                replaced, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                assert all(end.result() == (grpc.StatusCode.OK, "") for end in replaced)
                await asyncio.sleep(0.02)
            [survivor] = (number for end, number in ends.items() if end not in replaced)
            stream = await plane.next_stream()
            while stream.closed.is_set() or wire.request_head(Flavour.DELTA, await stream.next()).nonce != str(
                survivor
            ):
                stream = await plane.next_stream()
            stream.send(response(Flavour.DELTA, CDS, b"x"))
            await relay.status.until(lambda status: status.connected)
            stream.end()
            await asyncio.wait(ends)
        assert relay.status.value.streams == count
        for envoy in envoys:
            await envoy.close()

    test(tmp_path, Flavour.DELTA)
