"""Run a short command with input, output and a time limit: what `subprocess` does, for a tenth of its import."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence

KILL = 9


class Overdue(Exception):
    """The command did not end in time; it and whatever it started have been killed."""


def run(argv: Sequence[str], text: str, limit: float, environ: Mapping[str, str]) -> tuple[int, str, str]:
    """(exit code, or minus the signal; standard output; standard error). Raises OSError when it cannot be started and
    Overdue after `limit` seconds. Input and output are files in memory, so neither side can block the other."""
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        write(files[0], text.encode())
        os.lseek(files[0], 0, os.SEEK_SET)
        code = os.waitstatus_to_exitcode(_spawn_and_wait(argv, files, limit, environ))
        return code, read(files[1]), read(files[2])
    finally:
        for fd in files:
            os.close(fd)


def _spawn_and_wait(argv: Sequence[str], files: Sequence[int], limit: float, environ: Mapping[str, str]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
    pid = os.posix_spawn(argv[0], list(argv), environ, file_actions=actions, setpgroup=0)
    try:
        if not ended(pid, limit):
            raise Overdue
        return os.waitpid(pid, 0)[1]
    except BaseException:  # also when this process is told to stop: nothing goes on behind its back
        os.killpg(pid, KILL)
        os.waitpid(pid, 0)
        raise


def ended(pid: int, limit: float) -> bool:
    """Wait for the end of a child; whether it came within `limit` seconds."""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(limit * 1000))
    finally:
        os.close(handle)


def write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def read(fd: int) -> str:
    """Everything in a file, from its beginning."""
    data, size = b"", os.fstat(fd).st_size
    while len(data) < size and (part := os.pread(fd, size - len(data), len(data))):
        data += part
    return data.decode(errors="replace")
