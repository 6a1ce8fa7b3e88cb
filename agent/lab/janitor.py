"""Removes what a lab made - processes, network namespaces, the work directory - also after the lab itself was killed.

Runs as a child of the lab in a session of its own and reads lines from standard input, each written before the thing is
made: `namespace NAME` or `directory PATH`. End of file means that the lab has ended, however it ended.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

NETNS = Path("/run/netns")


def members(name: str) -> list[int]:
    """The processes inside a network namespace; empty when there is no such namespace."""
    try:
        wanted = (NETNS / name).stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            have = (entry / "ns/net").stat()
        except OSError:
            continue  # ended meanwhile
        if (have.st_dev, have.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(entry.name))
    return found


def kill_members(names: Sequence[str], limit: float = 5.0) -> list[int]:
    """SIGKILL everything inside the namespaces until nobody is left; returns who still is after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        alive = [pid for name in names for pid in members(name) if pid != os.getpid()]
        if not alive or time.monotonic() > deadline:
            return alive
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def clean(namespaces: Iterable[str], directories: Iterable[str]) -> list[str]:
    """Remove everything named; may be repeated. Returns one sentence for each thing that is still there."""
    names = list(dict.fromkeys(namespaces))
    problems = [f"process {pid} in a lab namespace could not be killed" for pid in kill_members(names)]
    for name in names:
        if not (NETNS / name).exists():
            continue
        command = ["ip", "netns", "delete", name]
        try:
            subprocess.run(command, check=True, timeout=10, capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or error
            problems.append(f"namespace {name} could not be deleted: {str(reason).strip()}")
    for directory in dict.fromkeys(directories):
        shutil.rmtree(directory, ignore_errors=True)
        if Path(directory).exists():
            problems.append(f"directory {directory} could not be removed")
    return problems


def main() -> int:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    named: dict[str, list[str]] = {"namespace": [], "directory": []}
    for line in sys.stdin:
        kind, _, value = line.rstrip("\n").partition(" ")
        named[kind].append(value)
    problems = clean(named["namespace"], named["directory"])
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


class Janitor:
    """The lab's end of the pipe. `close()` cleans up and waits; without it the end of this process does the same."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self._named: dict[str, list[str]] = {"namespace": [], "directory": []}

    @property
    def pid(self) -> int:
        return self._process.pid

    def _announce(self, kind: str, value: str) -> None:
        assert self._process.stdin is not None
        self._named[kind].append(value)
        self._process.stdin.write(f"{kind} {value}\n")
        self._process.stdin.flush()

    def namespace(self, name: str) -> None:
        """To be called before the namespace is made."""
        self._announce("namespace", name)

    def directory(self, path: Path) -> None:
        self._announce("directory", str(path))

    def close(self, limit: float = 30.0) -> list[str]:
        """Clean up now; returns what could not be removed, one sentence each. Further calls do nothing."""
        if self._process.stdin is None or self._process.stdin.closed:
            return []
        try:
            self._process.communicate(timeout=limit)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.communicate()
        if self._process.returncode == 0:
            return []
        # Somebody killed the janitor, or it could not finish: do its work here, once more.
        return clean(self._named["namespace"], self._named["directory"])


if __name__ == "__main__":
    sys.exit(main())
