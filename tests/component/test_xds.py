"""Envoy's side, the proxy and a control plane, with real sockets and TLS: forwarding, streams and their ends."""

import asyncio
import os

import grpc
import grpc.aio
import pytest

from agent.protos import reflection_pb2, xds_pb2
from agent.xds import wire
from agent.xds.session import Announcement
from agent.xds.wire import HEALTH, LISTENER, NAME_TABLE, TRUST_BUNDLE, Flavour
from tests.agent.xds import tape
from tests.fakes.ads_client import relaying
from tests.fakes.plane import Authority, FakePlane

CDS = wire.TYPE + "envoy.config.cluster.v3.Cluster"
UNKNOWN = b"\xfa\x7c\x04past"  # field 1999
both = pytest.mark.parametrize("flavour", Flavour)


def request(flavour, type_url, **fields):
    cls = xds_pb2.DeltaRequest if flavour is Flavour.DELTA else xds_pb2.Request
    return cls(type_url=type_url, **fields).SerializeToString()


def response(flavour, type_url, *values, nonce="n1", version="v1"):
    if flavour is Flavour.DELTA:
        message = xds_pb2.DeltaResponse(type_url=type_url, nonce=nonce, system_version_info=version)
        for value in values:
            resource = message.resources.add(name="r").resource
            resource.type_url, resource.value = type_url, value
    else:
        message = xds_pb2.Response(type_url=type_url, nonce=nonce, version_info=version)
        for value in values:
            message.resources.add(type_url=type_url, value=value)
    return message.SerializeToString()


async def opened(relay, plane, type_url=CDS):
    """An Envoy stream whose first request has arrived: (Envoy's end, the control plane's end)."""
    envoy = relay.envoy()
    await envoy.send(request(relay.flavour, type_url))
    while True:  # an earlier stream that ended before its first request may have got as far as the control plane
        stream = await plane.next_stream()
        closed = asyncio.create_task(stream.closed.wait())
        asked = asyncio.create_task(stream.next(30))
        await asyncio.wait({closed, asked}, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if asked.done():
            asked.result()
            return envoy, stream
        asked.cancel()


def world(test):
    """Run `test(relay, plane)` between a fake Envoy and a fake control plane over TLS."""

    def run(tmp_path, flavour, **arguments):
        async def go():
            authority = Authority()
            async with FakePlane(authority) as plane, relaying(tmp_path, plane, authority, flavour) as relay:
                await test(relay, plane, **arguments)

        asyncio.run(go())

    return run


# ------------------------------------------------------------------------------------------------ forwarding


@both
def test_frames_pass_byte_for_byte(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy = relay.envoy()
        up = request(flavour, CDS, response_nonce="n") + UNKNOWN
        await envoy.send(up)
        stream = await plane.next_stream()
        assert await stream.next() == up
        assert stream.flavour is flavour
        down = response(flavour, CDS, b"\xff\xfe\x00raw", b"") + UNKNOWN
        stream.send(down)
        assert await envoy.receive() == down
        await envoy.close()

    test(tmp_path, flavour)


@tape.every_tape
def test_recorded_conversations_pass_byte_for_byte(tmp_path, kind):
    flavour = tape.flavour(kind)
    envoys = wire.TYPE + "envoy."

    @world
    async def test(relay, plane):
        envoy, stream = relay.envoy(), None
        for entry, frame in tape.load(kind):
            if not entry["type_url"].startswith(envoys):
                continue
            if entry["direction"] == "request":
                await envoy.send(frame)
                stream = stream or await plane.next_stream()
                assert await stream.next() == frame
            else:
                stream.send(frame)
                assert await envoy.receive() == frame
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_what_envoy_does_not_know_is_dropped(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        unwanted = [NAME_TABLE, TRUST_BUNDLE, wire.TYPE + "istio.workload.Address", ""]
        last = response(flavour, wire.WORKLOAD, b"x")
        stream.send(*(response(flavour, type_url, b"x") for type_url in unwanted), last)
        assert await envoy.receive() == last
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_metadata_of_the_stream(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        assert stream.metadata["authorization"] == "Bearer token-1"
        assert stream.metadata["clusterid"] == "Kubernetes"
        assert stream.metadata["x-tenant"] == "blue"
        await envoy.close()
        (tmp_path / "token").write_text("token-2\n")
        envoy, stream = await opened(relay, plane)
        assert stream.metadata["authorization"] == "Bearer token-2"
        await envoy.close()

    test(tmp_path, flavour)


# ------------------------------------------------------------------------------------------------ ends


@both
@pytest.mark.parametrize("code", ["UNAVAILABLE", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "OK"])
def test_the_status_of_the_control_plane_reaches_envoy(tmp_path, flavour, code):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        last = response(flavour, CDS, b"x")
        stream.send(last)
        stream.end(grpc.StatusCode[code], "" if code == "OK" else "because: üñí")
        assert await envoy.receive() == last
        assert await envoy.ended() == (grpc.StatusCode[code], "" if code == "OK" else "because: üñí")
        async with asyncio.timeout(10):
            status = await relay.status.until(lambda s: not s.connected)
        assert (status.error == "") == (code == "OK")
        assert relay.kinds() == ["connected", "disconnected"]
        await envoy.close()

    test(tmp_path, flavour)


@both
@pytest.mark.parametrize("how", ["cancel", "half close"])
def test_envoys_end_reaches_the_control_plane(tmp_path, flavour, how):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        if how == "cancel":
            await envoy.close()
        else:
            await envoy.half_close()
            assert (await envoy.ended())[0] is grpc.StatusCode.OK
        async with asyncio.timeout(10):
            await stream.closed.wait()
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_a_newer_stream_replaces_the_older(tmp_path, flavour):
    @world
    async def test(relay, plane):
        old, old_stream = await opened(relay, plane)
        new, new_stream = await opened(relay, plane)
        assert await old.ended() == (grpc.StatusCode.OK, "")
        async with asyncio.timeout(10):
            await old_stream.closed.wait()
        assert old_stream.connection != new_stream.connection
        frame = response(flavour, CDS, b"x")
        new_stream.send(frame)
        assert await new.receive() == frame
        assert relay.status.value.connected
        assert relay.status.value.streams == 2
        await old.close()
        await new.close()

    test(tmp_path, flavour)


@both
def test_garbage_ends_the_stream_and_nothing_else(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy = relay.envoy()
        await envoy.send(b"garbage")
        code, message = await envoy.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message
        await envoy.close()
        envoy, stream = await opened(relay, plane)
        stream.send(b"garbage")
        code, message = await envoy.ended()
        assert code is grpc.StatusCode.INTERNAL
        assert plane.address in message
        await envoy.close()
        envoy, stream = await opened(relay, plane)
        await envoy.close()

    test(tmp_path, flavour)


def test_the_control_plane_comes_back_on_the_same_port(tmp_path):
    @world
    async def test(relay, plane):
        for _ in range(2):
            envoy, stream = await opened(relay, plane)
            frame = response(Flavour.DELTA, CDS, b"x")
            stream.send(frame)
            assert await envoy.receive() == frame
            await plane.stop()
            assert (await envoy.ended())[0] is grpc.StatusCode.UNAVAILABLE
            await envoy.close()
            for _ in range(3):
                envoy = relay.envoy()
                await envoy.send(request(Flavour.DELTA, CDS))
                code, message = await envoy.ended()
                assert code is grpc.StatusCode.UNAVAILABLE
                assert "refuses connections" in message
                await envoy.close()
            await plane.start()
        # Each outage: one event for the stream that broke, one for all the attempts after it.
        assert relay.kinds() == ["connected", "disconnected", "disconnected"] * 2

    test(tmp_path, Flavour.DELTA)


def test_either_side_may_go_in_the_middle_of_a_push(tmp_path, caplog):
    """Nothing but ordinary ends is reported, whoever was about to send what."""

    @world
    async def test(relay, plane):
        for turn in range(60):
            envoy, stream = await opened(relay, plane)
            stream.send(*[response(Flavour.DELTA, CDS, b"x" * 10 ** (turn % 7))] * 20)
            for _ in range(turn % 4):
                await envoy.receive()
            if turn % 3 == 0:
                await plane.stop()
                await plane.start()
            await envoy.close()
            async with asyncio.timeout(10):
                await stream.closed.wait()
        assert set(relay.kinds()) == {"connected", "disconnected"}

    test(tmp_path, Flavour.DELTA)
    # grpc's poller complains in asyncio's name about the closed loops of earlier tests; an agent has one loop.
    ours = [record for record in caplog.records if record.name.startswith("agent")]
    assert [record for record in ours if record.levelname == "ERROR"] == []


# ------------------------------------------------------------------------------------------------ our own subscriptions


def owning(test):
    """Like `world`, with handlers for both types; `test(relay, plane, applied)`."""

    def run(tmp_path, flavour):
        applied = []

        def take(value):
            if value.startswith(b"bad"):
                raise ValueError("cannot read it")
            applied.append(value)

        async def go():
            authority = Authority()
            handlers = {NAME_TABLE: take, TRUST_BUNDLE: take}
            wants = {"subscribe_names": True, "subscribe_trust": True}
            async with (
                FakePlane(authority) as plane,
                relaying(tmp_path, plane, authority, flavour, handlers, **wants) as relay,
            ):
                await test(relay, plane, applied)

        asyncio.run(go())

    return run


@both
def test_subscribes_on_every_stream_and_acknowledges(tmp_path, flavour):
    @owning
    async def test(relay, plane, applied):
        for turn in (b"first", b"second"):
            envoy, stream = await opened(relay, plane, LISTENER)
            assert [await stream.next() for _ in range(2)] == [
                wire.subscription(flavour, t) for t in (NAME_TABLE, TRUST_BUNDLE)
            ]
            stream.send(response(flavour, NAME_TABLE, turn, nonce="n7", version="v7"))
            assert await stream.next() == wire.acknowledgement(flavour, wire.Head(NAME_TABLE, "n7", "v7"))
            assert applied[-1] == turn
            stream.send(response(flavour, TRUST_BUNDLE), response(flavour, TRUST_BUNDLE, b"bad", nonce="n8"))
            refusal = wire.acknowledgement(flavour, wire.Head(TRUST_BUNDLE, "n8", "v1"), "cannot read it")
            assert await stream.next() == refusal
            visible = response(flavour, CDS, b"x")
            stream.send(visible)
            assert await envoy.receive() == visible
            await envoy.close()
        assert applied == [b"first", b"second"]
        assert relay.kinds().count("refused") == 2

    test(tmp_path, flavour)


@both
def test_announcements_follow_the_subscriptions_and_every_change(tmp_path, flavour):
    @owning
    async def test(relay, plane, applied):
        relay.announcements.set((Announcement(HEALTH, "starting"),))
        envoy, stream = await opened(relay, plane, LISTENER)
        heads = [wire.request_head(flavour, await stream.next()) for _ in range(3)]
        assert [head.type_url for head in heads] == [NAME_TABLE, TRUST_BUNDLE, HEALTH]
        assert heads[2].error == "starting"
        relay.announcements.set((Announcement(HEALTH),))
        assert await stream.next() == wire.subscription(flavour, HEALTH)
        await envoy.close()

    test(tmp_path, flavour)


@both
def test_a_refusal_by_envoy_is_an_event(tmp_path, flavour):
    @world
    async def test(relay, plane):
        envoy, stream = await opened(relay, plane)
        frame = request(flavour, CDS, error_detail=xds_pb2.Status(code=13, message="bad cluster a"))
        await envoy.send(frame)
        assert await stream.next() == frame
        [event] = relay.recorder.events()
        assert event.kind == "nack"
        assert "bad cluster a" in event.message
        await envoy.close()

    test(tmp_path, flavour)


# ------------------------------------------------------------------------------------------------ leaks


@both
def test_two_hundred_reconnects_leak_nothing(tmp_path, flavour):
    def fds():
        return len(os.listdir("/proc/self/fd"))

    @world
    async def test(relay, plane):
        async def reconnect(times):
            for turn in range(times):
                envoy = relay.envoy()
                await envoy.send(request(flavour, CDS))
                stream = await plane.next_stream()
                if turn % 2:
                    stream.send(response(flavour, CDS, b"x"))
                    await envoy.receive()
                await envoy.close()
                async with asyncio.timeout(10):
                    await stream.closed.wait()
            plane.opened.clear()

        await reconnect(10)
        before, tasks = fds(), len(asyncio.all_tasks())
        await reconnect(200)
        async with asyncio.timeout(20):
            while fds() > before + 5 or len(asyncio.all_tasks()) > tasks + 5:
                await asyncio.sleep(0.02)

    test(tmp_path, flavour)


def test_tools_are_told_what_there_is(tmp_path):
    @world
    async def test(relay, plane):
        async with grpc.aio.insecure_channel(f"unix:{relay.config.socket_path}") as channel:
            call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
            await call.write(reflection_pb2.Request(list_services="").SerializeToString())
            listed = reflection_pb2.Response.FromString(await call.read()).list_services_response.service
            assert "envoy.service.discovery.v3.AggregatedDiscoveryService" in {s.name for s in listed}
            call.cancel()

    test(tmp_path, Flavour.DELTA)
