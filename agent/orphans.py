"""What the first process of a container owes the others: to collect the status of children whose parent has gone."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

# Seconds that a dead child must have been left lying before it is taken for an orphan: whoever started it (Envoy's
# supervisor, an exec probe, a command for the redirect rules) waits for it and is told within milliseconds.
PATIENCE = 2.0


class Reaper:
    """Collects orphans until cancelled. `spared`: the process whose status somebody else must get, however late."""

    def __init__(self, spared: Callable[[], int | None] = lambda: None, patience: float = PATIENCE) -> None:
        self._spared, self._patience = spared, patience
        self._died = asyncio.Event()
        self.reaped = 0

    async def start(self) -> None:
        """Listen for ends of children; what has died before is looked for as well."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._died.set)
        self._died.set()

    async def run(self) -> None:
        try:
            while True:
                await self._died.wait()
                self._died.clear()
                while dead := set(zombies(children())):
                    await asyncio.sleep(self._patience)
                    for pid in dead - {self._spared()}:
                        self._collect(pid)
                    if dead <= {self._spared()}:
                        break
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def _collect(self, pid: int) -> None:
        with suppress(ChildProcessError):  # its parent was only slow
            self.reaped += os.waitpid(pid, os.WNOHANG)[0] == pid


def children() -> list[int]:
    """Every child of this process, living or dead. Each thread has its own list."""
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        # A thread may end meanwhile.
        with suppress(OSError, ValueError), open(f"/proc/self/task/{task}/children") as f:
            found += [int(word) for word in f.read().split()]
    return found


def zombies(pids: Iterable[int]) -> list[int]:
    """Those that have ended; the status of each stays where it is."""
    dead = []
    for pid in pids:
        with suppress(ChildProcessError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                dead.append(pid)
    return dead
