"""The control plane and the CA through an HTTP proxy: names that only it knows, credentials, refusals, hangs."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent import lookup, peer
from agent.config import IdentityConfig, PeerConfig
from agent.errors import AttemptError
from agent.identity import certs, keys
from agent.identity.client import CaClient
from agent.identity.credentials import Kind
from agent.record import replace
from agent.rpc import dial
from agent.rpc.dial import DialError
from agent.xds.wire import Flavour
from tests.component.test_xds import CDS, opened, request, response
from tests.fakes.ads_client import peer_config, relaying
from tests.fakes.ca import FakeCa
from tests.fakes.connect_proxy import proxying
from tests.fakes.plane import NAME, Authority, FakePlane

PLACE = f"{NAME}:15012"


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await body()

    asyncio.run(bounded())


async def failure(config: PeerConfig, address: str = PLACE) -> str:
    with pytest.raises(DialError) as e:
        await peer.open_link(config, address)
    return peer.explain(config, address, e.value)


@pytest.mark.parametrize("secure", [True, False], ids=["tls", "plaintext"])
def test_a_stream_to_a_control_plane_that_only_the_proxy_can_resolve(tmp_path: Path, secure: bool) -> None:
    async def main() -> None:
        authority = Authority() if secure else None
        async with FakePlane(authority) as plane, proxying({PLACE: plane.address}, "u:p@ss") as proxy:
            config = replace(peer_config(tmp_path, authority, PLACE), proxy=proxy.config("u:p%40ss"))
            async with relaying(tmp_path, config) as relay:
                envoy, stream = await opened(relay, plane)
                stream.send(response(Flavour.DELTA, CDS, b"1"))
                assert await envoy.receive()
                assert relay.status.value.endpoint == PLACE
                await envoy.close()
            assert proxy.asked == [PLACE]
            assert proxy.through > 0

    run(main)


def test_the_ca(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa() as ca:
            async with proxying({PLACE: ca.address}) as proxy:
                (tmp_path / "root.pem").write_bytes(ca.root.pem)
                config = PeerConfig((PLACE,), False, str(tmp_path / "root.pem"), NAME, proxy=proxy.config())
                client = CaClient(IdentityConfig("spiffe://td/ns/n/sa/s", config))
                chain = await client.sign(ca_request(), Kind.NONE, None, 10.0)
                assert len(chain) > 1
                assert proxy.asked == [PLACE]

    run(main)


def ca_request() -> bytes:
    base = IdentityConfig("spiffe://td/ns/n/sa/s", PeerConfig((), False, "", ""), ecdsa=True)
    return certs.request(keys.generate(base), base.spiffe_id)


def test_refusals_are_one_sentence_each(tmp_path: Path) -> None:
    async def main() -> None:
        authority = Authority()
        base = peer_config(tmp_path, authority, PLACE)
        async with FakePlane(authority) as plane, proxying({PLACE: plane.address}, "u:p") as proxy:
            where = f"{PLACE}: the proxy 127.0.0.1:{proxy.port}"
            said = await failure(replace(base, proxy=proxy.config()))
            assert said == f"{where} wants a user and a password (407): put them into HTTPS_PROXY"
            said = await failure(replace(base, proxy=proxy.config("u:wrong")))
            assert said == f"{where} does not accept the user and password of HTTPS_PROXY (407)"
            said = await failure(replace(base, proxy=proxy.config("u:p")), "nowhere.example:1")
            assert said == f"nowhere.example:1: the proxy 127.0.0.1:{proxy.port} refuses the tunnel: 502 Bad Gateway"
            # What is wrong behind the proxy is told with the way that led there: it may be the proxy's doing.
            other = tmp_path / "other.pem"
            other.write_bytes(Authority("other").pem)
            said = await failure(replace(base, proxy=proxy.config("u:p"), root_file=str(other)))
            begin = f"the certificate of {PLACE} (through the proxy 127.0.0.1:{proxy.port}) does not chain to"
            assert said.startswith(begin)
            port = proxy.port
            # The plane speaks TLS, so as a proxy it talks gibberish.
            as_proxy = replace(proxy.config(), port=int(plane.address.rpartition(":")[2]))
            said = await failure(replace(base, proxy=as_proxy))
            assert said.endswith(("closed the connection without an answer", "does not answer as an HTTP proxy does"))
        gone = f"{PLACE}: the proxy 127.0.0.1:{port} refuses connections"
        assert await failure(replace(base, proxy=replace(as_proxy, port=port))) == gone
        unknown = replace(as_proxy, host="nowhere.invalid")
        assert "cannot be found: its name is not resolved" in await failure(replace(base, proxy=unknown))

    run(main)


def test_a_proxy_that_hangs_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with proxying({}, hangs=True) as proxy:
            config = replace(peer_config(tmp_path, Authority(), PLACE), proxy=proxy.config())
            way = f"{PLACE} (through the proxy 127.0.0.1:{proxy.port})"
            async with relaying(tmp_path, config, dial_timeout=0.3) as relay:
                envoy = relay.envoy()
                await envoy.send(request(relay.flavour, CDS))
                code, said = await envoy.ended(20)
                await envoy.close()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert said == f"the control plane cannot be reached: {way} took no connection within 0.3 s"
            client = CaClient(IdentityConfig("spiffe://td/ns/n/sa/s", config))
            with pytest.raises(AttemptError, match=r"the CA .* did not answer within") as e:
                await client.sign(b"", Kind.NONE, None, 0.2)
            assert way in str(e.value)

    run(main)


@pytest.mark.parametrize("exceptions", ["*", ".istio-system.svc", "localhost"])
def test_exceptions_and_this_machine_are_dialled_directly(
    tmp_path: Path, exceptions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = lookup.addresses

    async def addresses(host: str, port: int) -> Any:
        # Two addresses of the same name, neither of which is an exception: the name decides.
        return await find("127.0.0.1", port) * 2 if host == NAME else await find(host, port)

    monkeypatch.setattr(lookup, "addresses", addresses)
    monkeypatch.setattr(dial, "addresses", addresses)

    async def main() -> None:
        authority = Authority()
        async with FakePlane(authority) as plane, proxying({}) as proxy:
            name = "localhost" if exceptions == "localhost" else NAME
            address = f"{name}:{plane.address.rpartition(':')[2]}"
            config = replace(peer_config(tmp_path, authority, address), proxy=proxy.config("", exceptions))
            async with relaying(tmp_path, config) as relay:
                envoy, stream = await opened(relay, plane)
                stream.send(response(Flavour.DELTA, CDS, b"1"))
                assert await envoy.receive()
                await envoy.close()
            assert proxy.asked == []

    run(main)
