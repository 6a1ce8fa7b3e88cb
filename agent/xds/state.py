"""The cache in files, so that it survives the agent: one per type, replaced at once, checked when read.

A file: a first line that names the format, a line of JSON (type, flavour, version, owner, asked names), the resources
as (length of the name, length of the slice, name, slice), and a CRC-32 of all of that.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from agent import logs
from agent.errors import FatalError
from agent.xds.cache import NEVER, Kept
from agent.xds.wire import Flavour

log = logs.scope("xdsproxy")

FORMAT = b"remora xds state 1\n"
SUFFIX = ".xds"
HEARD = "heard"  # epoch seconds when the control plane was last heard
VOLATILE = frozenset(("tmpfs", "ramfs"))
_SIZES = struct.Struct("<II")


class StateDir:
    """`STATE_DIR/xds`, for one owner: what somebody else left there is not used."""

    def __init__(self, state_dir: str, owner: str) -> None:
        self._parent = state_dir
        self._folder = os.path.join(state_dir, "xds")
        self._owner = owner

    def prepare(self, allow_disk: bool) -> None:
        """Make the folder. Raises FatalError if it cannot be made, or is on a disk and must not be."""
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            os.chmod(self._folder, 0o700)
            kind = filesystem(os.path.realpath(self._folder))
        except OSError as e:
            raise FatalError(
                f"STATE_DIR {self._parent} cannot be used: {e.strerror}; make it writable for this user or unset it"
            ) from e
        if kind not in VOLATILE and not allow_disk:
            raise FatalError(
                f"STATE_DIR {self._parent} is on {kind}, not on a tmpfs, and would keep configuration on a disk: "
                "use a tmpfs or set XDS_STATE_ALLOW_DISK=true"
            )

    def load(self) -> tuple[dict[str, Kept], float]:
        """Everything readable by type URL, and when the control plane was last heard (0: never)."""
        found: dict[str, Kept] = {}
        for name in sorted(os.listdir(self._folder)):
            path = os.path.join(self._folder, name)
            if not name.endswith(SUFFIX):
                if name != HEARD:  # half of a file that was being written
                    with suppress(OSError):
                        os.unlink(path)
                continue
            try:
                type_url, kept = self._read(path)
            except (OSError, ValueError, KeyError, TypeError) as e:
                log.warning("the saved configuration %s is ignored: %s", path, e)
                continue
            if type_url not in NEVER:
                found[type_url] = kept
        try:
            with open(os.path.join(self._folder, HEARD), encoding="ascii") as file:
                return found, float(file.read(64))
        except (OSError, ValueError):
            return found, 0.0

    def save(self, type_url: str, kept: Kept) -> None:
        """Replace the file of one type. `kept` must not change meanwhile. Raises OSError."""
        header = {
            "type": type_url,
            "flavour": kept.flavour.name,
            "version": kept.version,
            "owner": self._owner,
            "names": sorted(kept.names),
            "entries": len(kept.entries),
        }
        self._write(self._file(type_url), _frames(header, kept))

    def remove(self, type_url: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, self._file(type_url)))

    def heard(self, when: float) -> None:
        """Raises OSError."""
        self._write(HEARD, iter((repr(when).encode(),)))

    @staticmethod
    def _file(type_url: str) -> str:
        import hashlib  # a millisecond that only those pay who keep a state

        return hashlib.blake2b(type_url.encode(), digest_size=12).hexdigest() + SUFFIX

    def _write(self, name: str, chunks: Iterator[bytes]) -> None:
        temporary = os.path.join(self._folder, f"{name}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(temporary, flags, 0o600), "wb", buffering=1 << 18) as file:
                for chunk in chunks:
                    file.write(chunk)
            os.replace(temporary, os.path.join(self._folder, name))
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _read(self, path: str) -> tuple[str, Kept]:
        with open(path, "rb", buffering=1 << 18) as file:
            left = os.fstat(file.fileno()).st_size - 4
            if left < 0 or file.read(len(FORMAT)) != FORMAT:
                raise ValueError("it is not of this format")
            line = file.readline(left)
            check = zlib.crc32(line, zlib.crc32(FORMAT))
            header = json.loads(line)
            if not isinstance(header, dict) or header.get("owner") != self._owner:
                raise ValueError("it belongs to another proxy")
            kept = Kept(Flavour[str(header.get("flavour"))], version=str(header["version"]))
            kept.names = frozenset(map(str, header["names"]))
            for _ in range(int(header["entries"])):
                head = _exactly(file, _SIZES.size)
                name_size, size = _SIZES.unpack(head)
                if name_size + size > left:
                    raise ValueError("it is cut short")
                name, entry = _exactly(file, name_size), _exactly(file, size)
                check = zlib.crc32(entry, zlib.crc32(name, zlib.crc32(head, check)))
                kept.put(name.decode(), entry)
            if file.read() != check.to_bytes(4, "little"):
                raise ValueError("its checksum does not match")
            return str(header["type"]), kept


def _frames(header: dict[str, object], kept: Kept) -> Iterator[bytes]:
    check = 0
    line = json.dumps(header, separators=(",", ":")).encode() + b"\n"
    for chunk in (FORMAT, line):
        check = zlib.crc32(chunk, check)
        yield chunk
    for name, entry in kept.entries.items():
        key = name.encode()
        for chunk in (_SIZES.pack(len(key), len(entry)), key, entry):
            check = zlib.crc32(chunk, check)
            yield chunk
    yield check.to_bytes(4, "little")


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it is cut short")
    return data


def filesystem(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The type of the file system that a real path is on, as the kernel names it. Raises OSError."""
    best, kind = -1, "an unknown file system"
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            point = left.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            inside = point == "/" or path == point or path.startswith(point + "/")
            if inside and len(point) >= best:  # a later mount on the same point hides the earlier
                best, kind = len(point), right.split()[0]
    return kind
