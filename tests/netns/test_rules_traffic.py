"""What the rules do to real connections, from different users and from outside."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from init import apply, config, restore
from init.errors import ValidationError
from init.validate import validate
from tests.fakes.netns import Namespace, original_destination

pytestmark = pytest.mark.root

POD, PEER, FAR = "10.78.0.2", "10.78.0.1", "203.0.113.10"
POD6, PEER6 = "fd78::2", "fd78::1"
DEFAULT = ["-u", "1337", "-i", "*", "-b", "*", "-d", "15020", "--dual-stack"]


class World:
    """A pod with a proxy's two ports and an application, and a peer that answers on every address of its own."""

    def __init__(self) -> None:
        self.peer, self.pod = Namespace(), Namespace()
        self.listeners: dict[tuple[str, int], socket.socket] = {}
        self.open: list[socket.socket] = []
        self.pod.sh(f"ip link add eth0 type veth peer name eth0 netns /proc/{os.getpid()}/fd/{self.peer.fd}")
        for namespace, v4, v6 in ((self.pod, POD, POD6), (self.peer, PEER, PEER6)):
            up = f"ip addr add {v4}/24 dev eth0", f"ip addr add {v6}/64 dev eth0 nodad", "ip link set eth0 up"
            namespace.sh(*up)
        self.peer.sh(f"ip addr add {FAR}/32 dev lo")
        self.pod.sh(f"ip route add default via {PEER}")
        for name, namespace, ports in (("pod", self.pod, (15001, 15006, 8080, 15020)), ("peer", self.peer, (80,))):
            for port in ports:
                self.listeners[name, port] = namespace.listen(port, transparent=port == 15006)

    def apply(self, backend: str, argv: list[str]) -> config.InitConfig:
        def body() -> config.InitConfig:
            environ = {"PATH": os.environ["PATH"]}
            wanted = config.parse([*argv, "--force-iptables-binary", backend], environ)
            apply.apply(wanted)
            return wanted

        return self.pod.call(body)

    def where(self, client: socket.socket) -> tuple[str, int, tuple[str, int] | None]:
        """Which listener took a connection that was just made, and where it was meant to go."""
        import select

        ready = select.select(list(self.listeners.values()), [], [], 5)[0]
        assert len(ready) == 1
        (name, port), listener = next((k, v) for k, v in self.listeners.items() if v is ready[0])
        server = listener.accept()[0]
        self.open += [client, server]
        return name, port, original_destination(server)

    def pair(self, client: socket.socket) -> socket.socket:
        self.where(client)
        return self.open[-1]

    def close(self) -> None:
        for s in [*self.open, *self.listeners.values()]:
            s.close()
        self.pod.close()
        self.peer.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture(params=["nft", "legacy", "python-iptables"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What --force-iptables-binary says; python-iptables serves legacy tables where no command is found."""
    if request.param != "python-iptables":
        return str(request.param)
    monkeypatch.setattr(restore.Tools, "find", lambda tools, name: None)
    return "legacy"


def test_outbound_by_user(world: World, backend: str) -> None:
    world.apply(backend, DEFAULT)
    for uid, gid in ((0, 0), (1000, 1000)):
        assert world.where(world.pod.connect(FAR, 80, uid, gid)) == ("pod", 15001, (FAR, 80))
        assert world.where(world.pod.connect(PEER6, 80, uid, gid)) == ("pod", 15001, (PEER6, 80))
    for uid, gid in ((1337, 1337), (1337, 0), (1000, 1337)):
        assert world.where(world.pod.connect(FAR, 80, uid, gid)) == ("peer", 80, None)


def test_inbound(world: World, backend: str) -> None:
    world.apply(backend, DEFAULT)
    for host in (POD, POD6):
        for port in (8080, 22, 15001):
            assert world.where(world.peer.connect(host, port)) == ("pod", 15006, (host, port))
        assert world.where(world.peer.connect(host, 15020)) == ("pod", 15020, None)


def test_inside_the_pod(world: World, backend: str) -> None:
    world.apply(backend, DEFAULT)
    for pod, loop, through in ((POD, "127.0.0.1", "127.0.0.6"), (POD6, "::1", "::6")):
        assert world.where(world.pod.connect(pod, 8080, 1000)) == ("pod", 8080, None)
        assert world.where(world.pod.connect(loop, 8080, 1337)) == ("pod", 8080, None)
        assert world.where(world.pod.connect(pod, 8080, 1337)) == ("pod", 15006, (pod, 8080))
        assert world.where(world.pod.connect(pod, 8080, 1337, source=through)) == ("pod", 8080, None)


def test_tproxy_keeps_both_addresses(world: World, backend: str) -> None:
    world.apply(backend, [*DEFAULT, "-m", "TPROXY"])
    client = world.peer.connect(POD, 8080)
    assert world.where(client)[:2] == ("pod", 15006)
    server = world.open[-1]
    assert server.getsockname()[:2] == (f"::ffff:{POD}", 8080)
    assert server.getpeername()[:2] == (f"::ffff:{PEER}", client.getsockname()[1])
    assert world.where(world.pod.connect(POD, 8080, 1000)) == ("pod", 8080, None)
    assert world.where(world.pod.connect(FAR, 80, 1000)) == ("pod", 15001, (FAR, 80))


def test_connections_survive_another_plan(world: World, backend: str) -> None:
    world.apply(backend, DEFAULT)
    pairs = []
    for place, host, port, uid in ((world.pod, FAR, 80, 1000), (world.peer, POD, 8080, 0), (world.pod, FAR, 80, 1337)):
        client = place.connect(host, port, uid)
        pairs.append((client, world.pair(client)))
    for argv in ([*DEFAULT, "-o", "9"], DEFAULT, [*DEFAULT, "--drop-invalid"]):
        world.apply(backend, argv)
        for client, server in pairs:
            for a, b in ((client, server), (server, client)):
                b.settimeout(5)
                a.sendall(b"x")
                assert b.recv(1) == b"x"


def test_validation_is_made_for_the_proxys_user(world: World, backend: str) -> None:
    for port in (15001, 15006):  # as in a pod whose proxy has not started
        world.listeners.pop(("pod", port)).close()
    wanted = world.apply(backend, [*DEFAULT, "--probe-timeout", "2s"])
    world.pod.call(lambda: validate(wanted))
    world.pod.call(lambda: apply.cleanup(wanted))
    quick = config.parse([*DEFAULT, "--probe-timeout", "200ms"], {}, config.Host(lambda _: "", lambda: [POD]))
    with pytest.raises(ValidationError):
        world.pod.call(lambda: validate(quick))
