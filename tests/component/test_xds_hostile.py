"""Peers that break the rules: whatever one of them says or leaves unsaid, others are served, nothing is left behind."""

import asyncio
import gc
import os
import threading

import grpc
import pytest

from agent.xds import stream as streams
from agent.xds import wire
from agent.xds.wire import Flavour
from tests.component.test_xds import CDS, both, opened, request, response, world
from tests.component.test_xds_flow import MIB, resident
from tests.fakes.ads_client import peer_config, relaying
from tests.fakes.plane import FakePlane
from tests.fakes.rawplane import breaking, message

FRAME = response(Flavour.DELTA, CDS, b"x" * 1000)


async def told(relay, timeout=20):
    """Open a stream and ask: (responses, status)."""
    envoy = relay.envoy()
    await envoy.send(request(relay.flavour, CDS))
    got = []
    try:
        while (frame := await asyncio.wait_for(envoy.call.read(), timeout)) is not grpc.aio.EOF:
            got.append(frame)
    except grpc.aio.AioRpcError:
        pass
    result = got, await envoy.call.code()
    await envoy.close()
    return result


async def half(stream):
    await stream.headers()
    await stream.data(message(FRAME)[:500])


async def more_than_there_is(stream):
    await stream.headers()
    await stream.data(message(FRAME, size=3 << 30))


async def compressed_nonsense(stream):
    await stream.headers()
    await stream.data(message(FRAME, compressed=1))


async def not_http2(stream):
    await stream.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)


async def a_frame_too_big(stream):
    await stream.headers()
    await stream.raw((1 << 23).to_bytes(3, "big") + bytes([0, 0]) + stream.number.to_bytes(4, "big") + b"x" * 1000)


async def data_without_headers(stream):
    await stream.raw((5).to_bytes(3, "big") + bytes([0, 0]) + (99).to_bytes(4, "big") + b"hello")


async def reset(stream):
    await stream.headers()
    await stream.reset()
    await asyncio.sleep(0.1)


async def garbage_message(stream):
    await stream.headers()
    await stream.data(message(b"\xff" * 100))
    await asyncio.sleep(1)


BAD = [half, more_than_there_is, compressed_nonsense, not_http2, a_frame_too_big, data_without_headers, reset,
       garbage_message]  # fmt: skip


@pytest.mark.parametrize("script", BAD, ids=lambda script: script.__name__)
def test_what_is_no_answer_ends_the_stream_with_a_status(tmp_path, script):
    """Envoy gets no byte of it, the agent keeps serving, and nothing is held."""

    async def go():
        async with (
            breaking(script) as (address, connections),
            relaying(tmp_path, peer_config(tmp_path, None, address)) as relay,
        ):
            for turn in range(2):
                got, code = await told(relay)
                assert got == []
                assert code is not grpc.StatusCode.OK
                assert len(connections) == turn + 1
            assert all("\n" not in event.message for event in relay.recorder.events())
        assert resident() - before < 200 * MIB  # 3 GiB were promised

    before = resident()
    asyncio.run(go())


@pytest.mark.parametrize("script", BAD, ids=lambda script: script.__name__)
def test_another_endpoint_is_asked_where_nothing_was_said(tmp_path, script):
    async def go():
        async with (
            breaking(script) as (address, _),
            FakePlane() as good,
            relaying(tmp_path, peer_config(tmp_path, None, address, good.address)) as relay,
        ):
            for _ in range(2):  # what is an error by the protocol's own rules is Envoy's to know, once
                envoy = relay.envoy()
                await envoy.send(request(relay.flavour, CDS))
                wait = asyncio.create_task(good.next_stream(5))
                ended = asyncio.create_task(envoy.ended(5))
                await asyncio.wait({wait, ended}, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if wait.done():
                    wait.result().send(FRAME)
                    break
                wait.cancel()
                await envoy.close()
            await envoy.close()

    asyncio.run(go())


def test_half_a_message_blocks_nobody_else(tmp_path):
    """The first stream hangs in the middle of a response; the stream after it is served by another endpoint."""

    async def hang(stream):
        await stream.headers()
        await stream.data(message(FRAME)[:500])
        await asyncio.sleep(60)

    async def go():
        async with breaking(hang) as (address, _), FakePlane() as good:
            config = peer_config(tmp_path, None, address, good.address)
            async with relaying(tmp_path, config, dial_timeout=0.1, first_response=0.3) as relay:
                envoy, stream = await opened(relay, good)
                stream.send(FRAME)
                assert await envoy.receive() == FRAME
                await envoy.close()

    asyncio.run(go())


def test_a_control_plane_that_closes_every_100_ms(tmp_path):
    """Each stream ends with a status, each is served anew, and the log does not fill."""

    async def go():
        async with FakePlane() as plane, relaying(tmp_path, plane) as relay:

            async def close_again_and_again():
                while True:
                    stream = await plane.next_stream(60)
                    stream.send(FRAME)
                    await asyncio.sleep(0.1)
                    stream.end(grpc.StatusCode.UNAVAILABLE, "come again")

            closing = asyncio.create_task(close_again_and_again())
            for _ in range(15):
                assert await told(relay) == ([FRAME], grpc.StatusCode.UNAVAILABLE)
            closing.cancel()
            assert len(relay.recorder.events()) <= 2 * 15

    asyncio.run(go())


@both
def test_nonces_never_seen_and_types_nobody_asked_for(tmp_path, flavour):
    """Envoy's to judge or the control plane's: the frames pass, the stream lives."""

    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        asked_for_nothing = response(flavour, wire.TYPE + "envoy.config.route.v3.ScopedRouteConfiguration", b"x")
        stream.send(asked_for_nothing)
        assert await envoy.receive() == asked_for_nothing
        for nonce in ("never-sent", "from-the-future", "x" * 100_000, ""):
            frame = request(flavour, CDS, response_nonce=nonce)
            await envoy.send(frame)
            assert await stream.next() == frame
        for _ in range(3):
            same = response(flavour, CDS, b"x", nonce="again")
            stream.send(same)
            assert await envoy.receive() == same
        await envoy.close()

    test(tmp_path, flavour)


def test_two_hundred_megabytes_while_envoy_sleeps(tmp_path):
    """They wait at the control plane. The bound is one message at each of a few places, not the sum."""

    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        frame = response(Flavour.DELTA, CDS, os.urandom(2 * MIB))
        before = resident()
        stream.send(*[frame] * 100)
        sent = -1
        while sent != stream.sent:
            sent = stream.sent
            await asyncio.sleep(0.3)
        assert resident() - before < 60 * MIB
        assert sent < 30
        for _ in range(100):
            assert await envoy.receive() == frame
        await envoy.close()

    test(tmp_path, Flavour.DELTA)


def test_requests_that_a_control_plane_leaves_untaken_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "MOST_WAITING", 8 * MIB)

    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        stream.reading.clear()
        frame = request(Flavour.DELTA, CDS, response_nonce="x" * MIB)

        async def flood():
            for _ in range(64):
                await envoy.send(frame)

        flooding = asyncio.create_task(flood())
        await envoy.ended(30)  # with whatever the test's client makes of a stream that ends under its write
        assert relay.status.value.error.endswith("MiB of requests untaken")
        await asyncio.wait({flooding})
        flooding.exception()
        await envoy.close()

    test(tmp_path, Flavour.DELTA)


def test_a_thousand_reconnects_leak_nothing(tmp_path):
    """Files, tasks, threads, memory."""

    @world
    async def test(relay, plane):
        async def reconnect(times):
            for turn in range(times):
                envoy = relay.envoy()
                await envoy.send(request(Flavour.DELTA, CDS))
                stream = await plane.next_stream()
                if turn % 2:
                    stream.send(FRAME)
                    await envoy.receive()
                await envoy.close()
                async with asyncio.timeout(10):
                    await stream.closed.wait()
            plane.opened.clear()

        def held():
            gc.collect()
            return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), threading.active_count()

        await reconnect(100)
        before, memory = held(), resident()
        await reconnect(1000)
        async with asyncio.timeout(20):
            while any(now > then + 5 for now, then in zip(held(), before, strict=True)):
                await asyncio.sleep(0.05)
        # Both ends of a thousand TLS connections lived in this process.
        assert resident() - memory < 30 * MIB

    test(tmp_path, Flavour.DELTA)
