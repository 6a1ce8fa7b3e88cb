"""Several endpoints of a control plane, and one that is away for a while: who is asked, how soon, what Envoy sees."""

import asyncio
import time

import grpc
import pytest

from agent.xds.wire import Flavour
from tests.component.test_xds import CDS, opened, request, response
from tests.fakes.ads_client import peer_config, relaying
from tests.fakes.plane import Authority, FakePlane
from tests.fakes.rawplane import breaking

FRAME = response(Flavour.DELTA, CDS, b"x")


async def ask(relay):
    envoy = relay.envoy()
    await envoy.send(request(relay.flavour, CDS))
    return envoy


def test_a_silent_endpoint_is_left_for_another_and_tried_last_from_then_on(tmp_path):
    async def go():
        authority = Authority()
        async with FakePlane(authority) as silent, FakePlane(authority) as other:
            config = peer_config(tmp_path, authority, silent.address, other.address)
            async with relaying(tmp_path, config, dial_timeout=0.1, first_response=0.3) as relay:
                envoy = await ask(relay)
                first = await silent.next_stream()
                stream = await other.next_stream()
                assert await stream.next() == await first.next()  # the same request
                async with asyncio.timeout(10):
                    await first.closed.wait()
                stream.send(FRAME)
                assert await envoy.receive() == FRAME
                await envoy.close()
                envoy, stream = await opened(relay, other)
                await envoy.close()
                assert silent.streams.empty()

    asyncio.run(go())


def test_a_lone_endpoint_may_be_silent(tmp_path):
    async def go():
        authority = Authority()
        async with FakePlane(authority) as plane:
            config = peer_config(tmp_path, authority, "127.0.0.1:1", plane.address)
            async with relaying(tmp_path, config, dial_timeout=0.1, first_response=0.2) as relay:
                envoy, stream = await opened(relay, plane)
                await asyncio.sleep(0.5)
                assert not stream.closed.is_set()
                await envoy.close()

    asyncio.run(go())


def test_a_connection_that_breaks_before_an_answer_is_tried_elsewhere_on_the_same_stream(tmp_path):
    async def reset(stream):
        await stream.headers()
        await asyncio.sleep(0.05)

    async def go():
        async with (
            breaking(reset) as (broken, connections),
            FakePlane() as other,
            relaying(tmp_path, peer_config(tmp_path, None, broken, other.address)) as relay,
        ):
            envoy, stream = await opened(relay, other)
            stream.send(FRAME)
            assert await envoy.receive() == FRAME
            assert len(connections) == 1
            await envoy.close()

    asyncio.run(go())


def test_a_connection_that_breaks_between_answers_sends_the_next_stream_elsewhere(tmp_path):
    async def go():
        async with (
            FakePlane() as first,
            FakePlane() as second,
            relaying(tmp_path, peer_config(tmp_path, None, first.address, second.address)) as relay,
        ):
            envoy, stream = await opened(relay, first)
            stream.send(FRAME)
            await envoy.receive()
            await first.stop()
            code, _ = await envoy.ended()
            assert code is grpc.StatusCode.UNAVAILABLE
            await envoy.close()
            await first.start()  # although it is back
            envoy, _ = await opened(relay, second)
            assert first.streams.empty()
            await envoy.close()

    asyncio.run(go())


def test_every_address_of_a_name_is_used(tmp_path):
    """`localhost` is 127.0.0.1 and ::1 here; who listens on only one of them is found."""

    async def go():
        async with FakePlane(address="[::1]:0") as plane:
            port = plane.address.rpartition(":")[2]
            async with relaying(tmp_path, peer_config(tmp_path, None, f"localhost:{port}")) as relay:
                envoy, _ = await opened(relay, plane)
                await envoy.close()

    asyncio.run(go())


def test_envoy_waits_for_a_control_plane_that_comes_back(tmp_path):
    """The agent dials again on Envoy's behalf: one stream, and an answer tenths of a second after the return."""

    async def go():
        async with FakePlane() as plane:
            await plane.stop()
            async with relaying(tmp_path, plane, hold=20.0) as relay:
                envoy = await ask(relay)
                await relay.status.until(lambda status: "refuses connections" in status.error)
                await asyncio.sleep(1.5)
                await plane.start()
                back = time.monotonic()
                stream = await plane.next_stream()
                took = time.monotonic() - back
                assert await stream.next() == request(Flavour.DELTA, CDS)
                stream.send(FRAME)
                assert await envoy.receive() == FRAME
                assert relay.status.value.streams == 1
                assert (relay.status.value.error, relay.status.value.connected) == ("", True)
                assert relay.kinds() == ["disconnected", "connected"]  # not one for each attempt
                print(f"dialled {took * 1000:.0f} ms after the return")
                assert took < 5  # 0.4 s at most on an idle machine
                await envoy.close()

    asyncio.run(go())


def test_envoy_does_not_wait_for_ever(tmp_path):
    async def go():
        async with relaying(tmp_path, peer_config(tmp_path, None, "127.0.0.1:1"), hold=0.5) as relay:
            began = time.monotonic()
            envoy = await ask(relay)
            code, sentence = await envoy.ended()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "127.0.0.1:1 refuses connections" in sentence
            assert time.monotonic() - began > 0.05
            await envoy.close()

    asyncio.run(go())


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE])
def test_what_a_control_plane_says_is_not_waited_away(tmp_path, code):
    async def go():
        async with FakePlane() as plane, relaying(tmp_path, plane, hold=30.0) as relay:
            envoy, stream = await opened(relay, plane)
            stream.end(code, "not today")
            assert await envoy.ended(5) == (code, "not today")
            await envoy.close()

    asyncio.run(go())


# ------------------------------------------------------------------------------------------------ the watchdog


def test_one_that_takes_no_request_is_left(tmp_path):
    async def go():
        async with FakePlane() as plane, relaying(tmp_path, plane, dial_timeout=0.1, send_timeout=0.4) as relay:
            envoy, stream = await opened(relay, plane)
            stream.send(FRAME)
            await envoy.receive()
            stream.reading.clear()
            for i in range(1500):
                await envoy.send(request(Flavour.DELTA, CDS, response_nonce=f"{i}" + "x" * 30_000))
            assert await envoy.ended() == (
                grpc.StatusCode.UNAVAILABLE,
                "the control plane has taken no request for 0.4 s",
            )
            await envoy.close()

    asyncio.run(go())


def test_one_that_says_nothing_is_left_only_if_that_was_asked_for(tmp_path):
    async def go():
        async with FakePlane() as plane, relaying(tmp_path, plane, dial_timeout=0.1, idle_timeout=0.4) as relay:
            envoy, stream = await opened(relay, plane)
            for _ in range(4):  # as long as it says something
                stream.send(FRAME)
                await envoy.receive()
                await asyncio.sleep(0.2)
            sentence = "the control plane has said nothing for 0.4 s"
            assert await envoy.ended() == (grpc.StatusCode.UNAVAILABLE, sentence)
            await envoy.close()

    asyncio.run(go())


def test_an_envoy_that_sleeps_is_not_held_against_the_control_plane(tmp_path):
    async def go():
        limits = {"dial_timeout": 0.1, "idle_timeout": 0.3, "send_timeout": 0.3}
        async with FakePlane() as plane, relaying(tmp_path, plane, **limits) as relay:
            envoy, stream = await opened(relay, plane)
            stream.send(*[response(Flavour.DELTA, CDS, b"x" * 1_000_000)] * 20)
            await asyncio.sleep(1.2)
            assert not stream.closed.is_set()
            for _ in range(20):
                await envoy.receive()
            await envoy.close()

    asyncio.run(go())
