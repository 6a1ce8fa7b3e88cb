"""A native run that fails changes nothing: each command made to fail, to hang or to lie in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from init import apply, restore
from init.errors import InitError
from init.record import replace
from tests.fakes.netns import Namespace, snapshot
from tests.netns.test_native import BACKENDS, DUAL, EVERYTHING, RANGES, SIDECAR, pod, settings

__all__ = ["pod"]

pytestmark = pytest.mark.root


def wrap(folder: Path, name: str, when: str, body: str) -> None:
    """A command that goes wrong the first time its words are `when`, and is the real one otherwise."""
    real = restore.Tools().find(name)
    once = f'[ "$1" = "{when}" ] && mkdir "{folder}/{name}.once" 2>/dev/null'
    (folder / name).write_text(f'#!/bin/sh\nREAL={real}\nif {once}; then\n{body}\nfi\nexec "$REAL" "$@"\n')
    (folder / name).chmod(0o755)


FAULTS = {
    "fails": "exit 3",
    "is killed": "kill -9 $$",
    "fails after doing its work": '"$REAL" "$@"; exit 3',
    "does half of its work": 'sed "/^add table inet istio-proxy-mangle/,\\$d" | "$REAL" "$@"; exit 3',
    "lies": "cat > /dev/null; exit 0",
    "is no nft": "echo banana; exit 0",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("old", BACKENDS)
def test_a_write_that_goes_wrong_once(pod: Namespace, tmp_path: Path, old: str, fault: str) -> None:
    wrap(tmp_path, "nft", "-f", FAULTS[fault])

    def body() -> None:
        apply.apply(settings([*SIDECAR, *DUAL], old))
        before = snapshot()
        with pytest.raises(InitError, match="nothing was changed") as e:
            apply.apply(settings([*EVERYTHING, *DUAL], path=str(tmp_path)))
        assert "\n" not in str(e.value)
        assert snapshot() == before
        apply.apply(settings([*EVERYTHING, *DUAL]))
        assert apply.verify(settings([*EVERYTHING, *DUAL])) == []

    pod.call(body)


@pytest.mark.parametrize("stem", ["iptables", "ip6tables"])
@pytest.mark.parametrize("old", ["nft", "legacy"])
def test_old_rules_that_cannot_be_removed_stay_alone(pod: Namespace, tmp_path: Path, old: str, stem: str) -> None:
    wrap(tmp_path, f"{stem}-{old}-restore", "--noflush", "exit 3")

    def body() -> None:
        apply.apply(settings([*SIDECAR, *DUAL], old))
        before = snapshot()
        with pytest.raises(InitError, match="nothing was changed"):
            apply.apply(settings([*EVERYTHING, *DUAL], path=str(tmp_path)))
        assert snapshot() == before

    pod.call(body)


def test_native_tables_that_cannot_be_removed_stay_alone(pod: Namespace, tmp_path: Path) -> None:
    wrap(tmp_path, "nft", "-f", "exit 3")

    def body() -> None:
        apply.apply(settings([*EVERYTHING, *DUAL]))
        before = snapshot()
        with pytest.raises(InitError, match="nothing was changed"):
            apply.apply(settings([*SIDECAR, *DUAL], "nft", str(tmp_path)))
        assert snapshot() == before

    pod.call(body)


def test_a_rule_that_the_kernel_refuses_is_named_and_undone(pod: Namespace) -> None:
    def body() -> None:
        apply.apply(settings([*SIDECAR, *DUAL]))
        before = snapshot()
        unknown = replace(settings([*EVERYTHING, *DUAL]), uids=("no-such-user",))
        with pytest.raises(InitError, match=r"no-such-user.*nothing was changed") as e:
            apply.apply(unknown)
        assert "\n" not in str(e.value)
        assert snapshot() == before

    pod.call(body)


@pytest.mark.parametrize("fault", ["exit 3", "echo banana; exit 0", "kill -9 $$"])
def test_a_list_that_goes_wrong(pod: Namespace, tmp_path: Path, fault: str) -> None:
    wrap(tmp_path, "nft", "-s", fault)

    def body() -> None:
        apply.apply(settings([*SIDECAR, *DUAL]))
        before = snapshot()
        with pytest.raises(InitError):
            apply.apply(settings([*EVERYTHING, *DUAL], path=str(tmp_path)))
        assert snapshot() == before

    pod.call(body)


def test_a_command_that_hangs_is_ended_and_undone(
    pod: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap(tmp_path, "nft", "-f", '"$REAL" "$@"; exec sleep 60')
    impatient = apply.tools
    monkeypatch.setattr(apply, "tools", lambda c: replace(impatient(c), limit=1.5))

    def body() -> None:
        apply.apply(settings([*SIDECAR, *DUAL]))
        before = snapshot()
        with pytest.raises(InitError, match="nft did not finish"):
            apply.apply(settings([*EVERYTHING, *DUAL], path=str(tmp_path)))
        assert snapshot() == before

    pod.call(body)


def test_a_run_that_is_told_to_stop_half_way_is_undone(pod: Namespace, tmp_path: Path) -> None:
    wrap(tmp_path, "nft", "-f", '"$REAL" "$@"; exec sleep 60')
    program = [sys.executable, "-m", "init", "apply", *RANGES, *DUAL, "--native-nftables"]
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def body() -> None:
        apply.apply(settings([*SIDECAR, *DUAL]))
        before = snapshot()
        with subprocess.Popen(program, env=environ) as running:
            deadline = time.monotonic() + 20
            while snapshot() == before:
                assert time.monotonic() < deadline
                assert running.poll() is None
            running.terminate()
            assert running.wait(20) == 128 + signal.SIGTERM
        assert snapshot() == before

    pod.call(body)
