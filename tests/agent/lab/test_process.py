"""Looking at processes through /proc, and the command line that puts one in its place."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.errors import FatalError
from agent.lab import process
from agent.lab.net import Namespace
from agent.lab.process import Place, Process

HERE = Namespace("rl1-a", "10.77.0.11")


def test_every_step_of_a_command_execs_the_next() -> None:
    line = Place(HERE, Path("/work"), 7, 1337, ("net_admin",)).command(["python", "-m", "agent"])
    text = " ".join(line)
    assert "--net=/run/netns/rl1-a" in text
    assert f"--mount=/proc/{os.getpid()}/fd/7" in text
    assert "-C /work" in text
    assert "--reuid=1337 --regid=1337 --clear-groups --inh-caps=+net_admin --ambient-caps=+net_admin" in text
    assert text.endswith("--pdeathsig KILL python -m agent")


def test_without_capabilities_none_are_inheritable() -> None:
    line = Place(HERE, Path("/work"), uid=1000).command(["true"])
    assert "--inh-caps=-all" in line
    assert not any(word.startswith("--mount") for word in line)


def test_tools_are_found_whatever_path_says() -> None:
    assert os.access(process.tool("setpriv"), os.X_OK)
    with pytest.raises(FatalError, match="not installed"):
        process.tool("no-such-tool-anywhere")


def test_children_figures_and_ends(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "30"]) as popen:
        child = Process("sleeper", popen, tmp_path / "log")
        deadline = time.monotonic() + 10
        sleeping = Path(process.tool("sleep"))
        while (found := process.child_running(os.getpid(), sleeping)) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert found == child.pid
        assert child.pid in process.children(os.getpid())
        assert abs(process.started_at(child.pid) - time.time()) < 15
        assert process.resident_bytes(child.pid) > 0
        assert child.running
        assert child.wait(0.01) is None
        assert child.stop() == -15
        assert child.ended is not None
        assert not child.running
    assert process.cpu_seconds(os.getpid()) > 0


def test_somebody_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        assert popen.stdout.readline() == b"deaf\n"
        assert Process("deaf", popen, tmp_path / "log").stop(0.05) == -9


def test_who_is_gone_has_no_figures() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert process.children(gone.pid) == []
    assert process.cpu_seconds(gone.pid) == 0.0
    assert process.resident_bytes(gone.pid) == 0
    assert process.started_at(gone.pid) == 0.0
    process.kill(gone.pid)
