"""Start one Envoy process. Synchronous and light to import: the first Envoy is started before asyncio is loaded."""

import ctypes
import errno
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from agent.config import EnvoyConfig
from agent.errors import FatalError

PR_SET_PDEATHSIG = 1
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


class Envoy:
    """One running Envoy, leader of its own process group. Owned by whoever holds it; end it with `kill` and `reap`."""

    def __init__(self, process: "subprocess.Popen[bytes]", started: float) -> None:
        self._process = process
        self.pid = process.pid
        self.started = started  # time.monotonic() just before the fork
        self.pidfd = os.pidfd_open(process.pid)  # readable once the process has ended

    def kill(self) -> None:
        """SIGKILL for the whole process group (a `binaryPath` may be a wrapper script)."""
        # The group is only signalled while its leader is not reaped: until then its number cannot be reused.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def reap(self, timeout: float | None = None) -> int:
        """Wait for the end, remove what is left of the process group; returns the status (−N = killed by signal N).

        Raises TimeoutError if it still runs after `timeout` seconds.
        """
        if self._process.returncode is None:
            ended = select.poll()
            ended.register(self.pidfd, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError(f"process {self.pid} has not ended within {timeout} s")
            self.kill()
        status = self._process.wait()
        self.close()
        return status

    def close(self) -> None:
        """Give the pidfd back; the process is not touched."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def spawn(config: EnvoyConfig, argv: Sequence[str], environ: Mapping[str, str]) -> Envoy:
    """Start `config.binary` with `argv` (without the program name); stdio and working directory are inherited.

    Call it on the main thread: the kernel ends the child when the *thread* that forked it ends.
    FatalError (one sentence): the binary is missing or cannot be run.
    """
    started = time.monotonic()
    uid, gid = config.run_as or (None, None)
    if config.run_as is not None:
        _hand_over_pipes(*config.run_as)
    try:
        process = subprocess.Popen(
            [config.binary, *argv],
            env=environ,
            process_group=0,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            preexec_fn=_bind_to_parent(),
        )
    except OSError as error:
        raise FatalError(_sentence(config.binary, error)) from error
    except subprocess.SubprocessError as error:
        raise FatalError(f"Envoy ({config.binary}) was not started: {error}.") from error
    return Envoy(process, started)


def _bind_to_parent() -> Callable[[], None]:
    """What the child does between fork and exec, with everything it needs looked up beforehand.

    PR_SET_PDEATHSIG makes the kernel kill Envoy when the agent dies, however it dies; nothing in the standard library
    sets it, so a preexec function must. The fork may happen while other threads run: the function imports nothing,
    takes no lock and calls only prctl(2), getppid(2) and kill(2). Ambient capabilities (CAP_NET_ADMIN for the rules)
    stay with the agent.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent, getppid, kill, getpid = os.getpid(), os.getppid, os.kill, os.getpid
    sigkill = int(signal.SIGKILL)

    def child() -> None:
        prctl(PR_SET_PDEATHSIG, sigkill, 0, 0, 0)
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        if getppid() != parent:  # the agent died before the first line took effect
            kill(getpid(), sigkill)

    return child


def _hand_over_pipes(uid: int, gid: int) -> None:
    """Envoy re-opens /dev/stdout for access logs, which needs rights on a pipe's inode once it runs as another user."""
    for fd in (1, 2):
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.fchown(fd, uid, gid)


def _sentence(binary: str, error: OSError) -> str:
    """Why exec failed and what to do."""
    advice = "set binaryPath in the proxy config (PROXY_CONFIG) to an Envoy that this user may run"
    if error.errno == errno.ENOENT:
        reason = "there is no such file, or its interpreter is missing"
    elif error.errno == errno.EACCES:
        reason = "it is not an executable file for this user"
    elif error.errno == errno.ENOEXEC:
        reason = "it is not a program that this machine can run"
    elif error.errno in (errno.EAGAIN, errno.ENOMEM):
        reason, advice = f"the system has no room for another process ({error.strerror})", "raise the pod's limits"
    elif error.errno == errno.EPERM:
        reason, advice = "this user may not change to the user that Envoy shall run as", "start the agent as root"
    else:
        reason = error.strerror or str(error)
    return f"Envoy ({binary}) was not started: {reason}; {advice}."
