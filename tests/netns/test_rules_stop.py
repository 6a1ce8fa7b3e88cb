"""Runs that are stopped or killed between any two steps, and what a run costs in processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from init import apply, config, restore
from init.errors import InitError
from init.record import replace
from tests.fakes.netns import Namespace, snapshot

pytestmark = pytest.mark.root

OLD = ["-u", "1337", "-b", "*", "-i", "*", "--dual-stack"]
NEW = ["-u1337", "-mTPROXY", "-b80", "-i10.0.0.0/8", "--dual-stack", "--drop-invalid", "--redirect-dns"]
NEW += ["--capture-all-dns", "--reconcile"]
COMMANDS = {
    "remora-init apply": ["init", "apply"],
    "remora-init": ["init"],
    "pilot-agent istio-iptables": ["agent", "istio-iptables"],
}
STEPS = [f"{stem}-{kind}" for kind in ("save", "restore") for stem in ("iptables", "ip6tables")]


@pytest.fixture
def pod() -> Iterator[Namespace]:
    up = "ip link add eth0 type veth peer name gw0", "ip link set eth0 up"
    namespace = Namespace(*up, "ip addr add 10.77.0.2/24 dev eth0", "ip addr add fd77::2/64 dev eth0 nodad")
    yield namespace
    namespace.close()


def settings(argv: list[str], backend: str = "nft") -> config.InitConfig:
    return config.parse([*argv, "--force-iptables-binary", backend], {"PATH": os.environ["PATH"]})


def wrap(folder: Path, name: str, body: str) -> None:
    """A command that counts its runs in NAME.count and then does `body`, which may `exec "$REAL" "$@"`."""
    real = restore.Tools().find(name)
    path = folder / name
    path.write_text(f'#!/bin/sh\nREAL={real}\necho x >> "{folder}/{name}.count"\n{body}\n')
    path.chmod(0o755)


def runs(folder: Path, name: str) -> int:
    path = folder / f"{name}.count"
    return path.read_text().count("x") if path.exists() else 0


def start(command: str, argv: list[str], path: Path, backend: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", *COMMANDS[command], *argv, "--force-iptables-binary", backend]
    environ = {"PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def reached(running: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 20
    while not (folder / "here").exists():
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.005)


# The n-th run of a command does its work, or not, and then sleeps: there the process is stopped.
PLACES = [
    (step, n, when)
    for step, n in (("iptables-save", 1), ("iptables-restore", 1), ("ip6tables-restore", 1), ("iptables-save", 2))
    for when in ("before", "after")
]


def full(step: str, backend: str) -> str:
    stem, _, kind = step.partition("-")
    return f"{stem}-{backend}-{kind}"


def pause(folder: Path, name: str, n: int, when: str) -> None:
    work = '"$REAL" "$@";' if when == "after" else ""
    wrap(
        folder,
        name,
        f'if [ "$(wc -l < "{folder}/{name}.count")" -ne {n} ]; then exec "$REAL" "$@"; fi\n'
        f'{work} touch "{folder}/here"; exec sleep 60',
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("step", "n", "when"), PLACES)
def test_told_to_stop_anywhere_it_puts_everything_back(
    pod: Namespace, tmp_path: Path, command: str, step: str, n: int, when: str
) -> None:
    pause(tmp_path, full(step, "nft"), n, when)

    def body() -> None:
        apply.apply(settings(OLD))
        before = snapshot()
        with start(command, NEW, tmp_path, "nft") as running:
            reached(running, tmp_path)
            running.terminate()
            assert running.wait(20) == 128 + signal.SIGTERM
            assert running.stderr is not None
            assert b"Traceback" not in running.stderr.read()
        assert snapshot() == before

    pod.call(body)


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize(("step", "n", "when"), PLACES[2:])
def test_killed_anywhere_the_next_run_heals(
    pod: Namespace, tmp_path: Path, backend: str, step: str, n: int, when: str
) -> None:
    pause(tmp_path, full(step, backend), n, when)

    def body() -> None:
        apply.apply(settings(OLD, backend))
        with start("pilot-agent istio-iptables", NEW, tmp_path, backend) as running:
            reached(running, tmp_path)
            running.kill()
            running.wait(20)
        wanted = settings(NEW, backend)
        apply.apply(wanted)
        assert apply.verify(wanted) == []
        healed = snapshot()
        apply.cleanup(wanted)
        apply.apply(wanted)
        assert snapshot() == healed

    pod.call(body)


@pytest.mark.parametrize("fault", ["exit 3", "kill -9 $$", "exec sleep 60"])
@pytest.mark.parametrize("step", STEPS)
def test_a_cleanup_in_which_a_command_goes_wrong_once(
    pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: str
) -> None:
    name = full(step, "nft")
    wrap(tmp_path, name, f'if [ "$(wc -l < "{tmp_path}/{name}.count")" -gt 1 ]; then exec "$REAL" "$@"; fi\n{fault}')
    base = apply.tools
    monkeypatch.setattr(apply, "tools", lambda c: replace(base(c), limit=0.5))

    def body() -> None:
        apply.apply(settings(OLD))
        before = snapshot()
        broken = replace(settings(OLD), path=f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(InitError):
            apply.cleanup(broken)
        assert snapshot() == before
        apply.cleanup(broken)

    pod.call(body)


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_the_sidecar_default_takes_three_processes_a_family(pod: Namespace, tmp_path: Path, backend: str) -> None:
    """Plan, apply and verify: one reads, one writes, one reads again."""
    names = [full(s, b) for s in STEPS for b in ("nft", "legacy")]
    for name in names:
        wrap(tmp_path, name, 'exec "$REAL" "$@"')

    def body() -> None:
        with start("pilot-agent istio-iptables", OLD, tmp_path, backend) as running:
            assert running.wait(20) == 0
        other = "legacy" if backend == "nft" else "nft"
        for stem in ("iptables", "ip6tables"):
            mine = [runs(tmp_path, full(f"{stem}-{kind}", backend)) for kind in ("save", "restore")]
            stale = sum(runs(tmp_path, full(f"{stem}-{kind}", other)) for kind in ("save", "restore"))
            assert mine in ([2, 1], [1, 1])  # legacy tables that do not exist are not read
            assert stale <= (backend == "legacy")  # whether the other backend holds something of ours
        for name in names:
            (tmp_path / f"{name}.count").unlink(missing_ok=True)
        with start("pilot-agent istio-iptables", OLD, tmp_path, backend) as running:
            assert running.wait(20) == 0
        assert sum(runs(tmp_path, full(s, backend)) for s in STEPS) == 2  # a second run reads, and that is all

    pod.call(body)
