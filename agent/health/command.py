"""The exec probe: a command in a process group of its own, which does not outlive its time."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence

STDIO = [
    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    (os.POSIX_SPAWN_DUP2, 1, 2),
]


async def run(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Why it failed, "" when it exited with 0. Cancelled: the whole group is killed and reaped. Raises OSError."""
    pid = _spawn(command, environ)
    try:
        pidfd = os.pidfd_open(pid)
        try:
            await _readable(pidfd)
        finally:
            os.close(pidfd)
    finally:
        # Also what it left in the background; first, because the number is free for others once it is reaped.
        kill_group(pid)
        status = _reap(pid)
    if status < 0:
        return f"the command was ended by {signal.Signals(-status).name}"
    return f"exit status {status}" if status else ""


def _spawn(command: Sequence[str], environ: Mapping[str, str]) -> int:
    # posix_spawn: no Python runs between fork and exec, so threads of gRPC cannot be in the way.
    # Signals that the agent handles or ignores are the command's own business again.
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1)
    return os.posix_spawnp(command[0], list(command), environ, file_actions=STDIO, setsid=True, setsigdef=handled)


def _reap(pid: int) -> int:
    """It has ended or been killed, so this takes no time."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_group(pid: int) -> None:
    """End every process of the group, if there is one left."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: None if done.done() else done.set_result(None))
    try:
        await done
    finally:
        loop.remove_reader(fd)
