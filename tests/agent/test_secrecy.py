"""In processes of their own: what is hidden stays hidden."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REFUSING = Path(__file__).parent.parent / "fakes/refusing.py"
PROGRAM = """
import ctypes, os, sys
from agent import secrecy
if sys.argv[1] == "hide":
    assert secrecy.hide_memory()
own = len(os.listdir("/proc/self/fd")) > 0, open("/proc/self/stat").read() != ""
print(*own, ctypes.CDLL(None).prctl(secrecy.PR_GET_DUMPABLE), flush=True)
sys.stdin.read(1)
child = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", "import ctypes; print(ctypes.CDLL(None).prctl(3))"])
"""


def start(word: str, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, word]
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": path}, cwd=folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2),
    )  # fmt: skip


@pytest.mark.parametrize(("word", "dumped"), [("hide", False), ("show", True)])
def test_no_core_is_dumped_and_own_proc_files_stay_readable(word: str, dumped: bool, tmp_path: Path) -> None:
    with start(word, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"True True {int(dumped)}\n"
        process.send_signal(signal.SIGABRT)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = -signal.SIGABRT
    assert os.WTERMSIG(status) == signal.SIGABRT
    # Without the hiding a core may be dumped (where the kernel's pattern allows), with it never.
    assert not os.WCOREDUMP(status) or dumped
    assert dumped or list(tmp_path.iterdir()) == []


def test_a_child_gets_its_own_back_at_exec(tmp_path: Path) -> None:
    with start("hide", tmp_path) as process:
        out, _ = process.communicate("x", timeout=20)
    assert out.splitlines()[-1] == "1"


def test_a_refusal_is_noticed() -> None:
    ask = "from agent import secrecy; print(secrecy.hide_memory())"
    command = [sys.executable, str(REFUSING), sys.executable, "-c", ask]
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "False\n"
