"""A memory control group of a test's own (v1 or v2): the kernel kills what wants more in it than it may have."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from agent.envoy.cgroup import locate
from tests.fakes.envoy import wait_for


class MemoryGroup:
    """A context manager. `limit` in bytes, swap included. Whatever was put in must have ended before it closes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tenants: Path | None = None  # where the processes of the parent had to go meanwhile
        self.path = Path()

    def __enter__(self) -> Self:
        counter = locate(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        assert counter, "this machine mounts no cgroup hierarchy that could hold a memory controller"
        parent = Path(counter).parent
        if (parent / "cgroup.controllers").exists():
            parent = self._with_controller(parent)
        self.path = parent / f"remora-test-{os.getpid()}"
        self.path.mkdir()
        first = (self.path / "memory.limit_in_bytes").exists()  # version 1 counts swap with the rest
        self._write("memory.limit_in_bytes" if first else "memory.max", self._limit)
        with suppress(FileNotFoundError):  # a kernel without swap accounting
            self._write("memory.memsw.limit_in_bytes" if first else "memory.swap.max", self._limit if first else 0)
        return self

    def _write(self, name: str, number: int) -> None:
        with open(self.path / name, "r+") as file:
            file.write(str(number))

    def _with_controller(self, parent: Path) -> Path:
        """Version 2: the nearest group whose children have the controller; a container's own may first have to get it.

        Such a group may have no processes beside its children, except at the root of the machine.
        """
        for group in (parent, *parent.parents):
            control = group / "cgroup.subtree_control"
            if control.exists() and "memory" in control.read_text().split():
                return group
        control = parent / "cgroup.subtree_control"
        try:
            control.write_text("+memory")
        except OSError:
            self._tenants = parent / f"remora-test-tenants-{os.getpid()}"
            self._tenants.mkdir()
            _move(parent, self._tenants)
            control.write_text("+memory")
        return parent

    def __exit__(self, *_: object) -> None:
        wait_for(self._removed)
        if self._tenants is not None:
            parent = self._tenants.parent
            (parent / "cgroup.subtree_control").write_text("-memory")
            _move(self._tenants, parent)
            self._tenants.rmdir()

    def _removed(self) -> bool:
        with suppress(OSError):  # the last process is still on its way out
            self.path.rmdir()
        return not self.path.exists()

    def wrap(self, command: list[str]) -> list[str]:
        """The same command, in the group from its first instruction."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *command]


def _move(source: Path, target: Path) -> None:
    for pid in (source / "cgroup.procs").read_text().split():
        with suppress(ProcessLookupError):
            (target / "cgroup.procs").write_text(pid)
