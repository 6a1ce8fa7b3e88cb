"""A run that fails changes nothing: every command made to fail, to hang or to lie in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from init import apply, config, netlink, restore
from init.errors import InitError
from init.record import replace
from tests.fakes.netns import Namespace, snapshot

pytestmark = pytest.mark.root

OLD = ["-u", "1337", "-b", "*", "-i", "*", "--dual-stack"]
NEW = [
    "-u1337",
    "-mTPROXY",
    "-b80",
    "-i10.0.0.0/8",
    "--dual-stack",
    "--drop-invalid",
    "--redirect-dns",
    "--capture-all-dns",
]


@pytest.fixture
def pod() -> Iterator[Namespace]:
    namespace = Namespace(
        "ip link add eth0 type veth peer name gw0",
        "ip link set eth0 up",
        "ip addr add 10.77.0.2/24 dev eth0",
        "ip addr add fd77::2/64 dev eth0 nodad",
    )
    yield namespace
    namespace.close()


def settings(argv: list[str], backend: str, path: str = "") -> config.InitConfig:
    full = f"{path}:{os.environ['PATH']}".strip(":")
    return config.parse([*argv, "--force-iptables-binary", backend], {"PATH": full})


def wrap(folder: Path, name: str, body: str) -> None:
    real = restore.Tools().find(name)
    path = folder / name
    path.write_text(f'#!/bin/sh\nREAL={real}\nCOUNT={folder}/{name}.count\necho x >> "$COUNT"\n{body}\n')
    path.chmod(0o755)


FAULTS = {
    "fails": "exit 3",
    "is killed": "kill -9 $$",
    "fails after doing its work": '"$REAL" "$@"; exit 3',
    "does half of its work": 'sed \'/^COMMIT/q\' | "$REAL" "$@"; exit 3',
    "lies": "cat > /dev/null; exit 0",
    "hangs": "exec sleep 60",
    "hangs after doing its work": '"$REAL" "$@"; sleep 60',
}


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = apply.tools
    monkeypatch.setattr(apply, "tools", lambda c: replace(patient(c), limit=0.7, lock_wait=0))


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stem", ["iptables", "ip6tables"])
def test_a_restore_that_goes_wrong_once(pod: Namespace, tmp_path: Path, backend: str, stem: str, fault: str) -> None:
    once = f'if [ "$(wc -l < "$COUNT")" -gt 1 ]; then exec "$REAL" "$@"; fi\n{FAULTS[fault]}'
    wrap(tmp_path, f"{stem}-{backend}-restore", once)

    def body() -> None:
        apply.apply(settings(OLD, backend))
        before = snapshot()
        with pytest.raises(InitError, match="nothing was changed") as e:
            apply.apply(settings(NEW, backend, str(tmp_path)))
        assert "\n" not in str(e.value)
        assert snapshot() == before
        apply.apply(settings(NEW, backend))
        assert apply.verify(settings(NEW, backend)) == []

    pod.call(body)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("fault", ["exit 3", "echo banana", "kill -9 $$", "exec sleep 60"])
@pytest.mark.parametrize("stem", ["iptables", "ip6tables"])
def test_a_save_that_goes_wrong(pod: Namespace, tmp_path: Path, stem: str, fault: str) -> None:
    wrap(tmp_path, f"{stem}-nft-save", fault)

    def body() -> None:
        apply.apply(settings(OLD, "nft"))
        before = snapshot()
        with pytest.raises(InitError):
            apply.apply(settings(NEW, "nft", str(tmp_path)))
        assert snapshot() == before

    pod.call(body)


@pytest.mark.parametrize("step", [1, 3, 4, 6])
@pytest.mark.parametrize("fault", ["kill -9 $$", '"$REAL" "$@"; exit 3'])
def test_python_iptables_that_goes_wrong_once(
    pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, step: int
) -> None:
    """Each of its processes in turn: reading both families, writing both, reading both again."""
    program, count = tmp_path / "python", tmp_path / "count"
    program.write_text(
        f"#!/bin/sh\nREAL={sys.executable}\necho x >> {count}\n"
        f'if [ "$(wc -l < {count})" -ne {step} ]; then exec "$REAL" "$@"; fi\n{fault}\n'
    )
    program.chmod(0o755)

    def body() -> None:
        apply.apply(settings(OLD, "legacy"))
        before = snapshot()
        monkeypatch.setattr(restore.Tools, "find", lambda tools, name: None)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(InitError) as e:
            apply.apply(settings(NEW, "legacy"))
        assert "python-iptables" in str(e.value)
        assert snapshot() == before
        apply.apply(settings(NEW, "legacy"))
        assert apply.verify(settings(NEW, "legacy")) == []

    pod.call(body)


def test_a_command_that_hangs_is_ended_and_undone(
    pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = 'if [ "$(wc -l < "$COUNT")" -gt 1 ]; then exec "$REAL" "$@"; fi\nexec sleep 60'
    wrap(tmp_path, "ip6tables-nft-restore", once)
    impatient = apply.tools
    monkeypatch.setattr(apply, "tools", lambda c: replace(impatient(c), limit=2.0))

    def body() -> None:
        apply.apply(settings(OLD, "nft"))
        before = snapshot()
        with pytest.raises(InitError, match="did not finish"):
            apply.apply(settings(NEW, "nft", str(tmp_path)))
        assert snapshot() == before

    pod.call(body)


def test_a_run_that_is_told_to_stop_half_way_is_undone(pod: Namespace, tmp_path: Path) -> None:
    once = 'if [ "$(wc -l < "$COUNT")" -gt 1 ]; then exec "$REAL" "$@"; fi\nexec sleep 60'
    wrap(tmp_path, "ip6tables-nft-restore", once)
    program = [sys.executable, "-m", "init", "apply", *NEW, "--force-iptables-binary", "nft"]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def body() -> None:
        apply.apply(settings(OLD, "nft"))
        before = snapshot()
        with subprocess.Popen(program, env=environ) as running:
            deadline = time.monotonic() + 20
            while not (tmp_path / "ip6tables-nft-restore.count").exists():
                assert time.monotonic() < deadline
                assert running.poll() is None
                time.sleep(0.01)
            running.terminate()
            assert running.wait(20) == 128 + signal.SIGTERM
        assert snapshot() == before

    pod.call(body)


def test_a_route_that_cannot_be_added(pod: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = netlink.change_rule

    def refuse(family: int, mark: int, table: int, *, add: bool) -> None:
        if family == 6 and add:
            raise OSError(1, "Operation not permitted")
        real(family, mark, table, add=add)

    monkeypatch.setattr(netlink, "change_rule", refuse)

    def body() -> None:
        apply.apply(settings(OLD, "nft"))
        before = snapshot()
        with pytest.raises(InitError, match="IPv6 rule fwmark"):
            apply.apply(settings(NEW, "nft"))
        assert snapshot() == before

    pod.call(body)


def test_the_lock_of_another_program_is_waited_for(
    pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    lock = tmp_path / "lock"
    lock.touch()
    base = apply.tools
    monkeypatch.setattr(apply, "tools", lambda c: replace(base(c), lock_file=str(lock), lock_wait=1))

    def body() -> None:
        before = snapshot()
        with lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(InitError, match="xtables lock"):
                apply.apply(settings(OLD, "legacy"))
        assert snapshot() == before
        assert apply.apply(settings(OLD, "legacy")).changed

    pod.call(body)
