"""Which control planes are talked to, at which address, and what is said when none is."""

import asyncio
from dataclasses import replace

import grpc
import pytest

from agent.xds.wire import Flavour
from tests.component.test_xds import CDS, opened, request, response
from tests.fakes.ads_client import peer_config, relaying
from tests.fakes.ca import Root
from tests.fakes.front import TlsFront
from tests.fakes.metadata import jwt
from tests.fakes.plane import Authority, FakePlane

REFUSED = "127.0.0.1:1"


async def refused(relay):
    """Open one stream that is not served: (code, sentence)."""
    envoy = relay.envoy()
    await envoy.send(request(relay.flavour, CDS))
    result = await envoy.ended(20)
    await envoy.close()
    return result


def no_connection(tmp_path, plane, trusted, **changes):
    async def go():
        async with plane:
            config = replace(peer_config(tmp_path, trusted, plane.address), **changes)
            async with relaying(tmp_path, config) as relay:
                code, sentence = await refused(relay)
                assert code is grpc.StatusCode.UNAVAILABLE
                assert plane.streams.empty()
                assert relay.status.value.error == sentence
                [event] = relay.recorder.events()
                assert (event.kind, event.message) == ("disconnected", sentence)
                assert "\n" not in sentence
                return plane.address, sentence

    return asyncio.run(go())


def test_another_name(tmp_path):
    trusted = Authority()
    address, sentence = no_connection(tmp_path, FakePlane(trusted, names=("istiod.elsewhere.svc",)), trusted)
    assert address in sentence
    assert "istiod.istio-system.svc" in sentence


@pytest.mark.parametrize("name", ["root", "other"])
def test_another_root(tmp_path, name):
    address, sentence = no_connection(tmp_path, FakePlane(Authority(name)), Authority("root"))
    assert address in sentence
    assert str(tmp_path / "root.pem") in sentence


def test_an_expired_certificate(tmp_path):
    trusted = Authority()
    _, sentence = no_connection(tmp_path, FakePlane(trusted, days=-1), trusted)
    assert "expired" in sentence


def test_no_tls_at_all(tmp_path):
    _, sentence = no_connection(tmp_path, FakePlane(), Authority())
    assert "TLS" in sentence


def test_no_root_file(tmp_path):
    trusted = Authority()
    path = str(tmp_path / "missing.pem")
    _, sentence = no_connection(tmp_path, FakePlane(trusted), trusted, root_file=path)
    assert path in sentence


def test_a_replaced_root_counts_for_the_next_stream(tmp_path):
    async def go():
        old, new = Authority("old"), Authority("new")
        async with FakePlane(new) as plane, relaying(tmp_path, plane, old) as relay:
            assert (await refused(relay))[0] is grpc.StatusCode.UNAVAILABLE
            (tmp_path / "root.pem").write_bytes(old.pem + new.pem)
            envoy, _ = await opened(relay, plane)
            await envoy.close()

    asyncio.run(go())


def test_the_client_certificate_is_shown(tmp_path):
    async def go():
        authority = Authority()
        key, chain = authority.issue("spiffe://cluster.local/ns/demo/sa/app")
        (tmp_path / "key.pem").write_bytes(key)
        (tmp_path / "cert.pem").write_bytes(chain)
        async with FakePlane(authority, client_root=authority.pem) as plane:
            files = {"key_file": str(tmp_path / "key.pem"), "cert_file": str(tmp_path / "cert.pem")}
            config = replace(peer_config(tmp_path, authority, plane.address), **files)
            async with relaying(tmp_path, config) as relay:
                envoy, stream = await opened(relay, plane)
                assert stream.identities == [b"spiffe://cluster.local/ns/demo/sa/app"]
                await envoy.close()

    asyncio.run(go())


def test_plaintext(tmp_path):
    async def go():
        async with FakePlane() as plane, relaying(tmp_path, plane) as relay:
            envoy, _ = await opened(relay, plane)
            await envoy.close()

    asyncio.run(go())


def test_addresses_are_tried_in_turn_and_nothing_is_lost(tmp_path):
    async def go():
        authority = Authority()
        async with FakePlane(authority) as plane:
            config = peer_config(tmp_path, authority, REFUSED, REFUSED, plane.address)
            async with relaying(tmp_path, config) as relay:
                envoy = relay.envoy()
                frames = [request(Flavour.DELTA, CDS, response_nonce=str(i)) for i in range(5)]
                for frame in frames:
                    await envoy.send(frame)
                stream = await plane.next_stream()
                assert [await stream.next() for _ in frames] == frames
                stream.send(response(Flavour.DELTA, CDS, b"x"))
                await envoy.receive()
                assert relay.status.value.endpoint == plane.address
                await envoy.close()

    asyncio.run(go())


def test_a_refusal_that_is_no_outage_does_not_go_to_the_next_address(tmp_path):
    async def go():
        authority = Authority()
        async with FakePlane(authority) as first, FakePlane(authority) as second:
            config = peer_config(tmp_path, authority, first.address, second.address)
            async with relaying(tmp_path, config) as relay:
                envoy, stream = await opened(relay, first)
                stream.end(grpc.StatusCode.UNAUTHENTICATED, "who shows eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln")
                assert await envoy.ended() == (grpc.StatusCode.UNAUTHENTICATED, "who shows (redacted)")
                assert second.streams.empty()
                await envoy.close()

    asyncio.run(go())


@pytest.mark.parametrize("addresses", [0, 1])
def test_a_connection_that_hangs_has_a_budget(tmp_path, addresses):
    """The peer accepts and never speaks: given up after the dial budget, and the next address is asked."""

    async def go():
        authority = Authority()
        silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        hanging = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        async with FakePlane(authority) as plane:
            config = peer_config(tmp_path, authority, hanging, *[plane.address] * addresses)
            async with relaying(tmp_path, config, dial_timeout=0.2) as relay:
                if addresses:
                    envoy, _ = await opened(relay, plane)
                    await envoy.close()
                else:
                    code, sentence = await refused(relay)
                    assert code is grpc.StatusCode.UNAVAILABLE
                    assert hanging in sentence
        silent.close()

    asyncio.run(go())


def test_a_control_plane_that_has_nothing_to_say_is_left_alone(tmp_path):
    """The dial budget is about connecting, not about answering."""

    async def go():
        authority = Authority()
        async with FakePlane(authority) as plane, relaying(tmp_path, plane, authority, dial_timeout=0.1) as relay:
            envoy, stream = await opened(relay, plane)
            await asyncio.sleep(0.4)
            assert not stream.closed.is_set()
            assert not relay.status.value.connected
            stream.send(response(Flavour.DELTA, CDS, b"x"))
            await envoy.receive()
            assert relay.status.value.connected
            await envoy.close()

    asyncio.run(go())


@pytest.mark.parametrize("token", ["gone", "expired", "empty", "good"])
@pytest.mark.parametrize("own", [True, False])
def test_our_own_certificate_stands_in_for_a_token_that_cannot_be_used(tmp_path, token, own):
    async def go():
        root = Root()
        mine = root.workload("spiffe://cluster.local/ns/demo/sa/app") if own else None
        async with FakePlane() as plane, TlsFront(root, plane.address, root) as front:
            config = replace(peer_config(tmp_path, None, front.address), plaintext=False)
            (tmp_path / "root.pem").write_bytes(root.pem)
            content = {"gone": None, "expired": jwt(-5), "empty": "", "good": jwt(60)}[token]
            if content is None:
                (tmp_path / "token").unlink()
            else:
                (tmp_path / "token").write_text(content)
            async with relaying(tmp_path, config, own=lambda: mine) as relay:
                envoy, stream = await opened(relay, plane)
                await envoy.close()
            shown = "spiffe://cluster.local/ns/demo/sa/app" if own and token != "good" else ""
            assert [identity for identity, _ in front.shown] == [shown]
            assert stream.metadata.get("authorization") == (f"Bearer {content}" if token == "good" else None)

    asyncio.run(go())
