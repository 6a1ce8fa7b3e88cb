"""What test_guard.py runs, one scenario per process, each in a network namespace of its own that dies with it.

A scenario fails by raising; names are given on the command line.
"""

import asyncio
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

from agent.config import GuardConfig, GuardMode
from agent.events import Event, Recorder
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState
from agent.repair.manager import RedirectGuard
from agent.repair.probe import Capture, probe
from agent.repair.watch import Notifications, may_administer
from init import apply, config

ARGS = ("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020")
ENVIRON = {"PATH": os.defpath}


def sh(*words: str, user: int | None = None) -> None:
    subprocess.run(words, check=True, capture_output=True, user=user)


def network() -> None:
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "lifea", "type", "veth", "peer", "name", "lifeb")
    sh("ip", "addr", "add", "10.88.0.2/24", "dev", "lifea")
    sh("ip", "link", "set", "lifea", "up")


def planned(*more: str) -> config.InitConfig:
    return config.parse([*ARGS, *more], ENVIRON)


class World:
    def __init__(self, mode: GuardMode, period: float, *more: str) -> None:
        self.recorder = Recorder()
        self.envoy = Latest(EnvoyState(EnvoyPhase.RUNNING, pid=1))
        self.guard = RedirectGuard(GuardConfig(mode, (*ARGS, *more), period), ENVIRON, self.envoy, self.recorder)

    def play(self, script: Callable[[], Awaitable[None]]) -> list[Event]:
        async def run() -> None:
            await self.guard.start()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self.guard.run())
                await asyncio.sleep(
                    0.3
                )  # not a wait for anything: whatever the guard says of itself must be said by now
                assert self.recorder.events() == []
                async with asyncio.timeout(40):
                    await script()
                task.cancel()

        asyncio.run(run())
        return self.recorder.events()

    async def said(self, kind: str, times: int = 1) -> Event:
        while True:
            found = [e for e in self.recorder.events() if e.kind == kind]
            if len(found) >= times:
                return found[-1]
            await asyncio.sleep(0.002)


def notified_nft() -> None:
    """A flush under nft is noticed through netlink, long before the period, each of several times."""
    apply.apply(planned())
    world = World(GuardMode.APPLY, 3600.0)

    async def script() -> None:
        for i, words in enumerate((("-t", "nat", "-F"), ("-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT"))):
            sh("iptables-nft", *words)
            event = await world.said("rules-repaired", i + 1)
            print("repaired after", event.fields["ms"], "ms")
        sh("nft", "flush", "ruleset")
        await world.said("rules-repaired", 3)

    world.play(script)
    assert apply.verify(planned()) == []


def notified_native() -> None:
    """The same for native tables, whoever damages them and whatever of iptables' kind comes in their place."""
    native = ("--native-nftables", "--redirect-dns", "--capture-all-dns")
    apply.apply(planned(*native))
    world = World(GuardMode.APPLY, 3600.0, *native)

    async def script() -> None:
        for i, words in enumerate(
            (
                ("delete", "table", "inet", "istio-proxy-nat"),
                ("flush", "chain", "inet", "istio-proxy-nat", "istio-output"),
                ("insert", "rule", "inet", "istio-proxy-raw", "output", "accept"),
                ("flush", "ruleset"),
            )
        ):
            sh("nft", *words)
            event = await world.said("rules-repaired", i + 1)
            print("repaired after", event.fields["ms"], "ms")
        sh(sys.executable, "-m", "tests.netns.guard_scenarios", "reapply")  # somebody switches to iptables
        await world.said("rules-repaired", 5)

    world.play(script)
    assert apply.verify(planned(*native)) == []
    assert "ISTIO" not in subprocess.run(["iptables-nft-save"], capture_output=True, text=True, check=True).stdout


def crash_native() -> None:
    """A crash makes the guard look at legacy tables too, which tell nobody."""
    apply.apply(planned("--native-nftables"))
    world = World(GuardMode.APPLY, 3600.0, "--native-nftables")
    legacy = ("iptables-legacy", "-w", "-t", "nat")

    async def script() -> None:
        sh(*legacy, "-N", "ISTIO_OUTPUT")
        sh(*legacy, "-A", "OUTPUT", "-j", "ISTIO_OUTPUT")
        world.envoy.set(EnvoyState(EnvoyPhase.RUNNING, pid=2, crashes=1))
        assert "stale-backend" in (await world.said("rules-missing")).message
        await world.said("rules-repaired")

    world.play(script)
    assert "ISTIO" not in subprocess.run(["iptables-legacy-save"], capture_output=True, text=True, check=True).stdout


def crash_legacy() -> None:
    """Legacy tables tell nobody: an Envoy crash is what makes the guard look."""
    legacy = ("--force-iptables-binary", "legacy")
    apply.apply(planned(*legacy))
    world = World(GuardMode.APPLY, 3600.0, *legacy)

    async def script() -> None:
        sh("iptables-legacy", "-t", "nat", "-F")
        world.envoy.set(EnvoyState(EnvoyPhase.RUNNING, pid=2, crashes=1))
        print("repaired after", (await world.said("rules-repaired")).fields["ms"], "ms")

    world.play(script)
    assert apply.verify(planned(*legacy)) == []


def period_legacy() -> None:
    """And so does the period; the backend stays the one in which the rules were seen, although nothing forces it."""
    apply.apply(planned("--force-iptables-binary", "legacy"))
    world = World(GuardMode.APPLY, 0.2)

    async def script() -> None:
        sh("iptables-legacy", "-t", "nat", "-F")
        sh("iptables-legacy", "-t", "nat", "-X")
        await world.said("rules-repaired")

    world.play(script)
    assert apply.verify(planned("--force-iptables-binary", "legacy")) == []
    assert "ISTIO" not in subprocess.run(["iptables-nft-save"], capture_output=True, text=True, check=True).stdout


def detect() -> None:
    """Only said, not repaired."""
    apply.apply(planned())
    world = World(GuardMode.DETECT, 3600.0)

    async def script() -> None:
        sh("iptables-nft", "-t", "nat", "-F", "ISTIO_OUTPUT")
        await world.said("rules-missing")
        await asyncio.sleep(0.1)
        assert apply.verify(planned()) != []
        apply.apply(planned())
        assert "as planned again" in (await world.said("rules-repaired")).message

    world.play(script)


def listener(port: int) -> socket.socket:
    sock = socket.create_server(("127.0.0.1", port))
    sock.close()
    return socket.create_server(("0.0.0.0", port))


def probing() -> None:
    """Three answers of the probe, asked as the proxy's user."""
    apply.apply(planned())

    def ask() -> Capture:
        os.seteuid(1337)
        try:
            return asyncio.run(probe(15002, 15006))
        finally:
            os.seteuid(0)

    assert ask() is Capture.UNKNOWN
    with listener(15006):
        assert ask() is Capture.IN_PLACE
        sh("iptables-nft", "-t", "nat", "-F")
        assert ask() is Capture.GONE
    assert ask() is Capture.UNKNOWN


def unprivileged() -> None:
    """Without NET_ADMIN the guard says that the rules are gone, whatever it was asked to do."""
    apply.apply(planned())
    with listener(15006):
        os.seteuid(1337)
        assert not may_administer()
        world = World(GuardMode.APPLY, 0.1)

        async def script() -> None:
            sh("iptables-nft", "-t", "nat", "-F", user=0)
            assert "127.0.0.6" in (await world.said("rules-missing")).message
            world.envoy.set(EnvoyState(EnvoyPhase.RESTARTING, crashes=1))  # no Envoy, no probe
            sh(sys.executable, "-m", "tests.netns.guard_scenarios", "reapply", user=0)
            await asyncio.sleep(0.3)
            assert not [e for e in world.recorder.events() if e.kind == "rules-repaired"]
            world.envoy.set(EnvoyState(EnvoyPhase.RUNNING, pid=2, crashes=1))
            await world.said("rules-repaired")

        world.play(script)


def network_only() -> None:
    """The namespace gets its interfaces before anything else is called."""


def reapply() -> None:
    apply.apply(planned())


def ambient() -> None:
    """Uid 1337 with an ambient NET_ADMIN repairs; started by test_guard.py through setpriv, rules applied before."""
    assert os.geteuid() == 1337
    assert may_administer()
    world = World(GuardMode.APPLY, 3600.0)

    async def script() -> None:
        sh("iptables-nft", "-t", "nat", "-F")
        await world.said("rules-repaired")

    world.play(script)
    assert apply.verify(planned()) == []


def notifications() -> None:
    """The socket gets readable soon after a change, stays quiet without one, and needs the right."""
    watch = Notifications()
    try:
        assert not select.select([watch], [], [], 0.1)[0]
        began = time.monotonic()
        sh("nft", "add", "table", "ip", "life")
        assert select.select([watch], [], [], 10)[0]
        print("told after", round((time.monotonic() - began) * 1000, 1), "ms")
        # More than the socket holds: losing some must not matter.
        batch = "".join(f"add chain ip life c{i}\n" for i in range(5000))
        subprocess.run(["nft", "-f", "-"], input=batch, text=True, check=True)
        watch.drain()
        assert not select.select([watch], [], [], 0.1)[0]
    finally:
        watch.close()
    os.seteuid(1337)
    try:
        Notifications()
    except PermissionError:
        return
    raise AssertionError("an ordinary user was told")


if __name__ == "__main__":
    if sys.argv[1] not in ("reapply", "ambient"):
        network()
    globals()[sys.argv[1]]()
