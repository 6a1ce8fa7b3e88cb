"""Native nftables and real connections: DNS, one family only, and established ones while backends change."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from init import apply, config
from tests.fakes.netns import sh
from tests.fakes.world import FAR, FAR6, PEER, PEER6, POD, POD6, World

pytestmark = pytest.mark.root

SIDECAR = ["-u", "1337", "-i", "*", "-b", "*", "-d", "15020"]
DUAL = [*SIDECAR, "--dual-stack"]
DNS = 15053


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def datagrams(world: World) -> dict[str, list[socket.socket]]:
    """DNS servers: the proxy's, owned by it, and the peer's, on every address that is asked."""
    made: dict[str, list[socket.socket]] = {"proxy": [], "peer": []}
    for name, place, port, hosts in (
        ("proxy", world.pod, DNS, ("127.0.0.1", "::1")),
        ("peer", world.peer, 53, (PEER, PEER6, FAR)),
    ):
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            s = place.socket(family, socket.SOCK_DGRAM, 1337 if name == "proxy" else 0)
            s.bind((host, port))
            world.open.append(s)
            made[name].append(s)
    return made


def ask(world: World, servers: dict[str, list[socket.socket]], host: str, uid: int) -> str:
    """Who is asked by a query of this user, which gets its answer from the address that it asked."""
    import select

    client = world.pod.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM, uid, uid)
    with client:
        client.connect((host, 53))
        client.settimeout(5)
        client.send(b"?")
        every = [s for group in servers.values() for s in group]
        ready = select.select(every, [], [], 5)[0]
        assert len(ready) == 1
        data, back = ready[0].recvfrom(9)
        ready[0].sendto(data + b"!", back)
        assert client.recv(9) == b"?!"
    return next(name for name, group in servers.items() if ready[0] in group)


def test_dns_of_both_families(world: World) -> None:
    servers = datagrams(world)
    world.apply("native", [*DUAL, "--redirect-dns", "--capture-all-dns"])
    for host in (PEER, PEER6, FAR):
        assert ask(world, servers, host, 1000) == "proxy"
        assert ask(world, servers, host, 1337) == "peer"
    world.listeners["pod", DNS] = world.pod.listen(DNS)
    for host in (PEER, PEER6, FAR6):
        assert world.where(world.pod.connect(host, 53, 1000)) == ("pod", DNS, (host, 53))
    world.apply("native", DUAL)
    for host in (PEER, PEER6):
        assert world.where(world.pod.connect(host, 53, 1000)) == ("pod", 15001, (host, 53))


def test_only_the_named_ranges_of_each_family(world: World) -> None:
    world.apply("native", ["-b", "8080", "-i", f"{FAR}/32,{PEER6}/128", "--dual-stack"])
    for host, captured in ((FAR, True), (PEER, False), (PEER6, True), (FAR6, False)):
        where = ("pod", 15001, (host, 80)) if captured else ("peer", 80, None)
        assert world.where(world.pod.connect(host, 80, 1000)) == where
    for host in (POD, POD6):
        assert world.where(world.peer.connect(host, 8080)) == ("pod", 15006, (host, 8080))
        assert world.where(world.peer.connect(host, 15020)) == ("pod", 15020, None)


def test_a_whole_family_is_no_more_than_that_family(world: World) -> None:
    world.apply("native", ["-i", "0.0.0.0/0,2001:db8:1::/48", "--dual-stack"])
    assert world.where(world.pod.connect(FAR, 80, 1000)) == ("pod", 15001, (FAR, 80))
    assert world.where(world.pod.connect(PEER6, 80, 1000)) == ("peer", 80, None)


def test_tproxy_of_both_families(world: World) -> None:
    world.apply("native", [*DUAL, "-m", "TPROXY"])
    for pod, peer, mapped in ((POD, PEER, "::ffff:"), (POD6, PEER6, "")):
        client = world.peer.connect(pod, 8080)
        assert world.where(client)[:2] == ("pod", 15006)
        server = world.open[-1]
        assert server.getsockname()[:2] == (mapped + pod, 8080)
        assert server.getpeername()[:2] == (mapped + peer, client.getsockname()[1])
        assert world.where(world.pod.connect(pod, 8080, 1000)) == ("pod", 8080, None)
        client.sendall(b"x")
        assert server.recv(1) == b"x"


def test_the_proxy_never_meets_itself_when_ipv6_is_off(world: World) -> None:
    """Rules without addresses hold for IPv6 too, as in istio's tables; the proxy's own traffic passes all the same."""
    world.apply("native", SIDECAR)
    for host in (FAR, PEER6):
        assert world.where(world.pod.connect(host, 80, 1337)) == ("peer", 80, None)
        assert world.where(world.pod.connect(host, 80, 1000)) == ("pod", 15001, (host, 80))
    assert world.where(world.pod.connect(POD6, 8080, 1337)) == ("pod", 8080, None)


@pytest.mark.parametrize("first", ["nft", "legacy", "native"])
def test_connections_survive_every_change_of_backend(world: World, first: str) -> None:
    world.apply(first, DUAL)
    pairs = []
    for place, host, port, uid, at in (
        (world.pod, FAR, 80, 1000, 15001),
        (world.pod, FAR6, 80, 1000, 15001),
        (world.peer, POD, 8080, 0, 15006),
        (world.peer, POD6, 8080, 0, 15006),
        (world.pod, FAR, 80, 1337, 80),
        (world.pod, POD, 8080, 1337, 15006),
        (world.pod, POD, 8080, 1000, 8080),
    ):
        client = place.connect(host, port, uid)
        assert world.where(client)[1] == at
        pairs.append((client, world.open[-1]))
    for backend in ("native", "nft", "native", "legacy", "native", "native"):
        for argv in (DUAL, [*DUAL, "-o", "9", "--redirect-dns", "--capture-all-dns", "--drop-invalid"]):
            world.apply(backend, argv)
            for client, server in pairs:
                for a, b in ((client, server), (server, client)):
                    b.settimeout(5)
                    a.sendall(b"x")
                    assert b.recv(1) == b"x"
            assert world.where(world.pod.connect(FAR, 80, 1000)) == ("pod", 15001, (FAR, 80))
            assert world.where(world.peer.connect(POD6, 8080)) == ("pod", 15006, (POD6, 8080))


def test_what_is_foreign_keeps_its_traffic(world: World) -> None:
    """A table of somebody else, at its own priority, goes on doing what it does beside ours, and after ours is gone."""

    def foreign() -> None:
        sh("nft add table inet mine")
        sh("nft add chain inet mine c { type nat hook output priority -99 ; }")
        sh(f"nft add rule inet mine c meta skuid 1337 ip daddr {FAR} tcp dport 80 redirect to :8080")

    world.pod.call(foreign)
    world.apply("native", DUAL)
    assert world.where(world.pod.connect(FAR, 80, 1337))[:2] == ("pod", 8080)
    assert world.where(world.pod.connect(FAR, 80, 1000))[:2] == ("pod", 15001)
    world.pod.call(lambda: apply.cleanup(config.parse(["--native-nftables"], {})))
    assert world.where(world.pod.connect(FAR, 80, 1337))[:2] == ("pod", 8080)
    assert world.where(world.pod.connect(FAR, 80, 1000)) == ("peer", 80, None)
