"""A private mount namespace for the processes of a pod: its own resolver files, and a way to the interpreter.

Agent, Envoy and application run as users that may not be able to walk to the interpreter, the virtual environment or
the checkout (a home directory is often 0700). Each directory in the way is covered, in this namespace only, by an empty
one that everybody may walk through, and the needed trees are bound back in at their old places.
"""

import ctypes
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.errors import FatalError

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Cover:
    """One directory to cover with a walkable one, and the trees below it that must stay reachable."""

    blocker: Path
    trees: tuple[Path, ...]


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    def encoded(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    if _libc.mount(encoded(source), encoded(target), encoded(kind), ctypes.c_ulong(flags), encoded(data)) != 0:
        number = ctypes.get_errno()
        raise FatalError(f"cannot mount {source} at {target}: {os.strerror(number)} (the lab needs CAP_SYS_ADMIN)")


def walkable(directory: Path) -> bool:
    """May everybody walk through this directory?"""
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def plan(needed: Iterable[Path], may_walk: Callable[[Path], bool] = walkable) -> list[Cover]:
    """What to cover so that every needed tree can be reached by any user. Paths are absolute; order does not matter."""
    blocked: dict[Path, set[Path]] = {}
    for path in needed:
        for tree in {path, path.resolve()}:
            ancestors = list(reversed(tree.parents))
            blocker = next((a for a in ancestors if not may_walk(a)), None)
            # A blocker reached through a link is found again, under its real name, by the resolved path.
            if blocker is not None and blocker == blocker.resolve():
                blocked.setdefault(blocker, set()).add(tree)
    covers = []
    for blocker, trees in sorted(blocked.items()):
        # A tree inside another needed tree comes along with it.
        outer = [t for t in sorted(trees) if not any(p in trees for p in t.parents)]
        covers.append(Cover(blocker, tuple(outer)))
    return covers


def unreadable(needed: Iterable[Path]) -> list[Path]:
    """Needed trees whose own mode keeps others out: no mount can help there."""
    return [p for p in needed if p.is_dir() and p.stat().st_mode & 0o005 != 0o005]


def _cover(cover: Cover) -> None:
    with ExitStack() as stack:
        sources = []
        for tree in cover.trees:
            # Opened before the cover hides it: the descriptor is then the only way to it.
            fd = os.open(tree, os.O_PATH | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            sources.append((tree, fd))
        _mount("tmpfs", str(cover.blocker), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
        for tree, fd in sources:
            _bind(fd, tree)
        _mount("tmpfs", str(cover.blocker), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _bind(fd: int, target: Path) -> None:
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
    else:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.touch()
    _mount(f"/proc/self/fd/{fd}", str(target), None, MS_BIND | MS_REC)


def _replace(files: Mapping[Path, Path]) -> None:
    """Show other files at the given paths. A path that does not exist gets its directory rebuilt around it."""
    missing: dict[Path, dict[str, Path]] = {}
    for target, source in files.items():
        if target.is_file():
            _mount(str(source), str(target.resolve()), None, MS_BIND)
        else:
            missing.setdefault(target.parent, {})[target.name] = source
    for directory, additions in missing.items():
        with ExitStack() as stack:
            kept = []
            for entry in os.scandir(directory):
                if entry.name in additions:
                    continue  # a dangling link
                link = os.readlink(entry.path) if entry.is_symlink() else None
                fd = os.open(entry.path, os.O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if link else 0))
                stack.callback(os.close, fd)
                kept.append((directory / entry.name, fd, link))
            new = [(directory / name, os.open(source, os.O_PATH | os.O_CLOEXEC)) for name, source in additions.items()]
            for _, fd in new:
                stack.callback(os.close, fd)
            _mount("tmpfs", str(directory), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
            for path, fd, link in kept:
                if link is None:
                    _bind(fd, path)
                else:
                    path.symlink_to(link)
            for path, fd in new:
                _bind(fd, path)


def private_namespace(needed: Iterable[Path], files: Mapping[Path, Path]) -> int:
    """Build a mount namespace in which everybody reaches `needed` and sees `files` (target → source).

    Returns a descriptor of the namespace, which lives as long as it is open or a process is inside. Raises FatalError.
    """
    wanted = list(needed)
    if closed := unreadable(wanted):
        raise FatalError(f"{closed[0]} is closed to other users, as whom the lab runs its programs: chmod o+rx it")
    result: list[int] = []
    failure: list[Exception] = []

    def build() -> None:
        # Namespaces belong to threads: this one moves, the rest of the process stays where it is.
        try:
            if _libc.unshare(CLONE_NEWNS) != 0:
                raise FatalError(f"cannot make a mount namespace: {os.strerror(ctypes.get_errno())}")
            _mount("none", "/", None, MS_REC | MS_PRIVATE)
            for cover in plan(wanted):
                _cover(cover)
            _replace(files)
            result.append(os.open(f"/proc/self/task/{threading.get_native_id()}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        except (FatalError, OSError) as error:
            failure.append(error)

    thread = threading.Thread(target=build, name="mounts")
    thread.start()
    thread.join()
    if failure:
        error = failure[0]
        raise error if isinstance(error, FatalError) else FatalError(f"cannot prepare a pod's files: {error}")
    return result[0]
