"""Which directories tell about a file, and inotify on them: changes of mounted files are seen within milliseconds.

Directories are watched, never files: a file that is replaced, and the links that lead to it (the kubelet swaps one
called `..data`), are entries of directories.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterable

from agent import logs

log = logs.scope("file")

MAX_LINKS = 40  # as the kernel allows
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
IN_ONLYDIR = 0x01000000
MASK = (
    IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
    | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
)  # fmt: skip


def entries(path: str) -> dict[str, set[str]]:
    """Directory → names in it that decide what `path` is: every link on the way, and the last component.

    Where the way ends early, the missing component is the last one.
    """
    found: dict[str, set[str]] = {}
    todo = [part for part in reversed(os.path.abspath(path).split("/")) if part]
    here, links = "/", 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, part)
        try:
            target = os.readlink(step)
        except (OSError, ValueError):  # no link
            if not todo or not os.path.isdir(step):
                found.setdefault(here, set()).add(part)
                return found
            here = step
            continue
        found.setdefault(here, set()).add(part)
        links += 1
        if links > MAX_LINKS:
            return found
        if target.startswith("/"):
            here = "/"
        todo.extend(reversed(target.split("/")))
    return found


class Inotify:
    """The kernel's calls; OSError where it refuses."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def add(self, directory: str) -> int:
        return self._checked(self._libc.inotify_add_watch(self.fd, os.fsencode(directory), ctypes.c_uint32(MASK)))

    def remove(self, watch: int) -> None:
        self._libc.inotify_rm_watch(self.fd, watch)  # fails if the directory is gone, and the watch with it

    def read(self) -> list[tuple[int, str]]:
        """(watch, name of the entry or "") of everything that happened; the watch is -1 if the kernel lost count."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return []
        events, position = [], 0
        while position < len(data):
            watch, _, _, length = EVENT.unpack_from(data, position)
            position += EVENT.size
            events.append((watch, os.fsdecode(data[position : position + length].rstrip(b"\0"))))
            position += length
        return events

    def close(self) -> None:
        os.close(self.fd)


class Watcher:
    """Sets `changed` when something happens to the files that it follows. A context manager, inside a running loop."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self._inotify: Inotify | None = None
        self._watches: dict[str, int] = {}  # directory → watch
        self._names: dict[int, set[str]] = {}  # watch → entries of interest
        self._complained: set[str] = set()
        self.failures = 0  # num_file_watcher_failures_total

    def __enter__(self) -> "Watcher":
        try:
            self._inotify = Inotify()
        except OSError as e:
            self._failed("inotify", e)
        else:
            asyncio.get_running_loop().add_reader(self._inotify.fd, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None

    def follow(self, paths: Iterable[str]) -> bool:
        """Watch what decides about `paths` and nothing else; call it again whenever that may have changed.

        False if something cannot be watched: then only looking helps. It is tried again at the next call.
        """
        wanted: dict[str, set[str]] = {}
        for path in paths:
            for directory, names in entries(path).items():
                wanted.setdefault(directory, set()).update(names)
        if self._inotify is None:
            return not wanted
        for gone in self._watches.keys() - wanted.keys():
            watch = self._watches.pop(gone)
            self._names.pop(watch, None)
            self._inotify.remove(watch)
        complete = True
        names_of: dict[int, set[str]] = {}
        for directory, names in wanted.items():
            try:
                # Adding an existing watch again costs nothing, and finds a directory that was replaced.
                watch = self._watches[directory] = self._inotify.add(directory)
                names_of.setdefault(watch, set()).update(names)
                self._complained.discard(directory)
            except OSError as e:
                self._watches.pop(directory, None)
                self._failed(directory, e)
                complete = False
        for watch in self._names.keys() - names_of.keys():
            self._inotify.remove(watch)
        self._names = names_of
        return complete

    def _failed(self, what: str, e: OSError) -> None:
        self.failures += 1
        if what not in self._complained:
            self._complained.add(what)
            log.warning("cannot watch %s (%s); it is looked at every half second instead", what, e.strerror or e)

    def _read(self) -> None:
        assert self._inotify is not None
        for watch, name in self._inotify.read():
            names = self._names.get(watch)
            # No name: the directory itself went or was moved. No watch: events were lost.
            if watch < 0 or (names is not None and (not name or name in names)):
                self._changed.set()
