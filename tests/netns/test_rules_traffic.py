"""What the rules do to real connections, from different users and from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from init import apply, config, restore
from init.errors import ValidationError
from init.validate import validate
from tests.fakes.world import FAR, PEER, PEER6, POD, POD6, World, choice

pytestmark = pytest.mark.root

DEFAULT = ["-u", "1337", "-i", "*", "-b", "*", "-d", "15020", "--dual-stack"]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture(params=["nft", "legacy", "python-iptables", "native"])
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


@pytest.mark.parametrize("new", ["nft", "legacy", "native"])
@pytest.mark.parametrize("old", ["nft", "legacy", "native"])
def test_nothing_breaks_or_escapes_while_rules_are_replaced(world: World, old: str, new: str) -> None:
    """Another plan on another backend, or the same: old connections go on, and every new one is treated as planned."""
    world.apply(old, DEFAULT)
    pairs = []
    for place, host, port, uid in ((world.pod, FAR, 80, 1000), (world.peer, POD, 8080, 0), (world.pod, FAR, 80, 1337)):
        client = place.connect(host, port, uid)
        pairs.append((client, world.pair(client)))
    for backend, more in ((new, []), (old, ["-o", "9"]), (new, ["-o", "9", "--drop-invalid"])):
        words = [sys.executable, "-m", "init", "apply", *DEFAULT, *more, *choice(backend)]
        with world.pod.call(lambda argv=words: subprocess.Popen(argv, stdout=subprocess.DEVNULL)) as running:
            while running.poll() is None:
                assert world.where(world.pod.connect(FAR, 80, 1000)) == ("pod", 15001, (FAR, 80))
                assert world.where(world.pod.connect(FAR, 80, 1337)) == ("peer", 80, None)
                assert world.where(world.peer.connect(POD, 8080)) == ("pod", 15006, (POD, 8080))
                world.hang_up(keep=2 * len(pairs))
            assert running.returncode == 0
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
