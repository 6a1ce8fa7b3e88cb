import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from init import process

SHELL = "/bin/sh"


def shell(body: str, text: str = "", limit: float = 10.0) -> tuple[int, str, str]:
    return process.run([SHELL, "-c", body], text, limit, {"PATH": "/usr/bin:/bin", "X": "y"})


def test_input_output_and_environment() -> None:
    assert shell("cat; echo $X; echo oops >&2; exit 3", "hello\n") == (3, "hello\ny\n", "oops\n")


def test_a_lot_of_both() -> None:
    text = "0123456789abcdef" * (1 << 16)
    assert shell("cat; cat </dev/null >&2", text) == (0, text, "")
    assert shell(": ", text) == (0, "", "")  # input that nobody reads blocks nobody


def test_a_signal_is_a_negative_code() -> None:
    assert shell("kill -9 $$")[0] == -signal.SIGKILL


def test_bytes_that_are_no_text() -> None:
    assert shell(r"printf '\377'") == (0, "�", "")


def test_what_does_not_exist() -> None:
    with pytest.raises(FileNotFoundError):
        process.run(["/nonexistent"], "", 1, {})


def test_what_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(process.Overdue):
        shell(f"sleep 60 & echo $! $$ > {pids}; wait", limit=0.3)
    for pid in map(int, pids.read_text().split()):
        deadline = time.monotonic() + 5
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_signal_to_us_ends_the_command() -> None:
    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(SystemExit):
            shell("exec sleep 60")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [p for p in psutil.Process().children() if "sleep" in p.name()] == []


def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        shell("exit 0")
    assert len(os.listdir("/proc/self/fd")) == before
