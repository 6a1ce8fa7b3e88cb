"""The lab's processes: started inside a pod's namespaces as a given user, logged to a file each, ended with the lab."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import FatalError
from agent.lab.net import Namespace

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def tool(name: str) -> str:
    """The absolute path of a system program, whatever PATH says. Raises FatalError when it is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise FatalError(f"`{name}` is not installed")
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where and as whom a process runs. `mounts` is a descriptor of a mount namespace, None for the host's."""

    namespace: Namespace
    directory: Path
    mounts: int | None = None
    uid: int = 0
    capabilities: tuple[str, ...] = ()  # ambient, such as net_admin, for a uid other than 0

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` there; each step execs the next, so that the pid stays the same."""
        line = [tool("nsenter"), f"--net={self.namespace.path}"]
        if self.mounts is not None:
            # By way of this process, so that the descriptor is not inherited by what runs there.
            line.append(f"--mount=/proc/{os.getpid()}/fd/{self.mounts}")
        # nsenter's own --wd would be a directory of the outer mount namespace.
        line += [tool("env"), "-C", str(self.directory), tool("setpriv")]
        if self.uid:
            line += [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
            wanted = ",".join(f"+{c}" for c in self.capabilities)
            line += [f"--inh-caps={wanted}", f"--ambient-caps={wanted}"] if wanted else ["--inh-caps=-all"]
        return [*line, "--pdeathsig", "KILL", *argv]


@dataclass(slots=True)
class Process:
    """A running process of the lab. Times: `started` is epoch seconds at exec."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path
    started: float = field(default_factory=time.time)
    ended: float | None = None

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.status() is None

    def status(self) -> int | None:
        """Exit status as subprocess gives it (-9 = killed by SIGKILL); None while it runs."""
        status = self.popen.poll()
        if status is not None and self.ended is None:
            self.ended = time.time()
        return status

    def wait(self, limit: float) -> int | None:
        """Exit status, or None when it still runs after `limit` seconds."""
        try:
            self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        return self.status()

    def signal(self, number: int) -> None:
        if self.running:
            self.popen.send_signal(number)

    def stop(self, limit: float = 5.0) -> int | None:
        """SIGTERM, then SIGKILL after `limit` seconds; returns the exit status."""
        self.signal(signal.SIGTERM)
        if (status := self.wait(limit)) is not None:
            return status
        return self.kill()

    def kill(self) -> int | None:
        self.signal(signal.SIGKILL)
        return self.wait(5.0)


def start(name: str, place: Place, argv: Sequence[str], log: Path, environ: Mapping[str, str]) -> Process:
    """Start a process; its output goes to `log`, which belongs to its user so that it may reopen /dev/stdout."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.fchown(descriptor, place.uid, place.uid)
        os.fchmod(descriptor, 0o644)
        popen = subprocess.Popen(
            place.command(argv),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=dict(environ),
            start_new_session=True,
            umask=0o022,
        )
    except OSError as error:
        raise FatalError(f"cannot start {name}: {error}") from None
    finally:
        os.close(descriptor)
    return Process(name, popen, log)


def run(place: Place, argv: Sequence[str], environ: Mapping[str, str], limit: float = 60.0) -> "tuple[int, str]":
    """Run a command there to its end: (exit status, output with errors). Raises FatalError on the time limit."""
    try:
        done = subprocess.run(
            place.command(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            timeout=limit,
            umask=0o022,
        )
    except subprocess.TimeoutExpired:
        raise FatalError(f"`{' '.join(argv)}` did not end within {limit:g} s") from None
    return done.returncode, done.stdout.decode(errors="replace")


def kill(pid: int) -> None:
    """SIGKILL, as the kernel's out-of-memory killer sends it; a process that is gone already is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def children(pid: int) -> list[int]:
    """The direct children of a process; empty when it is gone."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return found


def child_running(pid: int, binary: Path) -> int | None:
    """The child of `pid` (or its child's child) that has exec'd `binary`, if there is one."""
    wanted = binary.stat()
    for child in (c for parent in (pid, *children(pid)) for c in children(parent)):
        try:
            have = Path(f"/proc/{child}/exe").stat()
        except OSError:
            continue
        if (have.st_dev, have.st_ino) == (wanted.st_dev, wanted.st_ino):
            return child
    return None


def started_at(pid: int) -> float:
    """When a process was forked, epoch seconds with the kernel's 10 ms resolution; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / CLOCK_TICKS


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0
