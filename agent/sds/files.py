"""Certificates that somebody mounts: `file-cert:<certificate>~<key>`, `file-root:<path>`, `file-root:system`.

A file that is gone, half-written or does not match its key changes nothing: the last good content stays until a better
one parses. When to look is for `follow` to say.
"""

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable

from agent import logs, pem
from agent.peer import os_bundle
from agent.record import record, state
from agent.sds import resources

log = logs.scope("cache")

MAX_SIZE, MAX_KEY = 16 << 20, 1 << 20  # bytes of a file; of a key
# How long, and of how many files, the last good content is kept when nobody asks any more: Envoy may come back.
KEEP, KEPT = 300.0, 16


@record
class Content:
    """What the files of one name held when they were last good."""

    version: str
    chain: bytes = b""
    key: bytes = b""
    roots: bytes = b""
    unshown = ("key",)


class Unusable(Exception):
    """One phrase: which file and why."""


def paths(name: str) -> tuple[str, ...] | None:
    """The files behind a resource name: (certificate, key) or (root,); None if it is not about files."""
    if not name.startswith("file-"):  # asked for every stream at every change
        return None
    if pair := resources.file_pair(name):
        return pair
    root = resources.file_root(name)
    if root is None:
        return None
    return (os_bundle() if root == "system" else root,)


def load(files: tuple[str, ...], known: Content | None = None) -> Content:
    """Read and check a pair or a root; `known` itself if that is what the files hold. Raises Unusable."""
    data = [_read(path, MAX_KEY if i else MAX_SIZE) for i, path in enumerate(files)]
    version = hashlib.sha256(b"\0".join(data)).hexdigest()[:32]
    if known is not None and version == known.version:
        return known
    if len(files) == 1:
        return Content(version, roots=_roots(files[0], data[0]))
    _check_pair(files, data[0], data[1])
    return Content(version, chain=data[0], key=data[1])


def _signature(files: tuple[str, ...]) -> tuple[object, ...]:
    """Changes when a file is replaced, rewritten or goes; links are followed."""
    found: list[object] = []
    for path in files:
        try:
            s = os.stat(path)
            found.append((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns))
        except (OSError, ValueError) as e:
            found.append(str(e))
    return tuple(found)


def _read(path: str, limit: int) -> bytes:
    if not path:
        raise Unusable("the resource name holds no path")
    try:
        # A pipe must not block the loop.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                raise Unusable(f"{path} is no regular file of at most {limit >> 20} MiB")
            data = f.read(limit)
    except (OSError, ValueError) as e:
        raise Unusable(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e
    if not data.strip():
        raise Unusable(f"{path} is empty")
    return data


def _check_pair(files: tuple[str, ...], chain: bytes, key: bytes) -> None:
    # Here, not above: most proxies mount no certificates, and this socket is on the way to every Envoy's readiness.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    blocks = pem.certificates(chain)
    if not blocks or chain.find(b"-----BEGIN ") != chain.find(pem.BEGIN) or len(blocks) != chain.count(pem.BEGIN):
        raise Unusable(f"{files[0]} does not begin with a whole PEM certificate")
    block = pem.private_key(key)
    if block is None:
        raise Unusable(f"{files[1]} holds no whole PEM private key")
    try:
        leaf = x509.load_pem_x509_certificate(blocks[0])
        # Whether its primes are primes (30 ms) is for Envoy to say; a key of another certificate is found without.
        loaded = serialization.load_pem_private_key(block, None, unsafe_skip_rsa_key_validation=True)
        matches = loaded.public_key() == leaf.public_key()
    except Exception as e:  # cryptography has a dozen ways to say that it cannot parse; its text may quote the key
        raise Unusable(f"{files[0]} or {files[1]} cannot be parsed ({type(e).__name__})") from e
    if not matches:
        raise Unusable(f"{files[1]} is not the key of the certificate {files[0]}")


def _roots(path: str, data: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    from agent import roots

    if pem.cut_short(data):
        raise Unusable(f"{path} ends within a PEM block")
    good = [certificate.public_bytes(serialization.Encoding.PEM) for certificate in roots.read_roots(data)]
    if not good:
        raise Unusable(f"{path} holds no PEM certificate that parses")
    return b"".join(good)


_Key = tuple[tuple[str, ...], bool]


@state
class _Tracked:
    files: tuple[str, ...]
    quiet: bool  # it is no failure that they are not there
    users: int = 0
    left: float = 0.0  # when the last of them went, on the monotonic clock
    content: Content | None = None
    problem: str = ""
    signature: tuple[object, ...] = ()

    @property
    def key(self) -> _Key:
        return self.files, self.quiet


@state
class _Name:
    entry: _Tracked
    users: int = 0


class FileSecrets:
    """The file-backed names that streams are subscribed to; names with the same files share what is known of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._names: dict[str, _Name] = {}
        self._tracked: dict[_Key, _Tracked] = {}
        self._idle: dict[_Key, _Tracked] = {}  # those of them that no stream wants now, the oldest first
        self._news = False  # `track` found content for which others wait
        self.touched = asyncio.Event()  # set when the files change; whoever follows them clears it
        self.failures = 0  # num_file_secret_failures_total
        self.loaded: Callable[[str, Content], None] | None = None  # hears of every content of every name

    def track(self, name: str, files: tuple[str, ...], quiet: bool = False) -> None:
        """One more stream wants `name`. `quiet`: the files are optional until they were there once."""
        known = self._names.get(name) or _Name(self._tracked.get((files, quiet)) or _Tracked(files, quiet))
        entry = known.entry
        if entry.content is None and self._look(entry) and entry.users:
            self._news = True
            self.touched.set()
        if entry.key not in self._tracked:
            self._tracked[entry.key] = entry
            self.touched.set()
        self._idle.pop(entry.key, None)
        self._names[name] = known
        known.users += 1
        entry.users += 1
        if entry.content is not None and known.users == 1:
            self._tell(name, entry.content)

    def untrack(self, name: str) -> None:
        """One stream less; nothing if the name is not tracked."""
        if (known := self._names.get(name)) is None:
            return
        known.users -= 1
        if not known.users:
            del self._names[name]
        entry = known.entry
        entry.users -= 1
        if entry.users:
            return
        if entry.content is None:
            self._forget(entry)
        else:
            entry.left = self._clock()
            self._idle[entry.key] = entry
            self._drop()

    def _drop(self) -> None:
        """Forget what nobody has asked for in a while, or what is too much."""
        since = self._clock() - KEEP
        for entry in list(self._idle.values()):
            if entry.left <= since or len(self._idle) > KEPT:
                del self._idle[entry.key]
                self._forget(entry)

    def _forget(self, entry: _Tracked) -> None:
        del self._tracked[entry.key]
        self.touched.set()

    def names(self) -> list[str]:
        """Every name that a stream wants."""
        return list(self._names)

    def paths(self) -> list[str]:
        """Every file that is looked at."""
        return [path for entry in self._tracked.values() for path in entry.files if path]

    @property
    def unsettled(self) -> bool:
        """Some content is not what the files hold now: somebody may be in the middle of writing them."""
        return any(e.problem and (e.content or not e.quiet) for e in self._tracked.values())

    def get(self, name: str) -> Content | None:
        """The last good content of a tracked name, None while there was none."""
        known = self._names.get(name)
        return known.entry.content if known else None

    def problem(self, name: str) -> str:
        """Why a tracked name has no (new) content, "" if all is well."""
        known = self._names.get(name)
        return known.entry.problem if known else ""

    def refresh(self, thorough: bool = False) -> bool:
        """Look at every tracked file; true if some content changed. `thorough`: whatever their times say."""
        changed, self._news = self._news, False
        self._drop()
        for entry in self._tracked.values():
            # A pair that did not match when it was read may have been half-way through a change.
            if thorough or entry.problem or entry.signature != _signature(entry.files):
                changed |= self._look(entry)
        return changed

    def _look(self, entry: _Tracked) -> bool:
        """Read the files again; true if their content is new. Raises nothing."""
        entry.signature = _signature(entry.files)  # before reading: a later change shows
        try:
            content = load(entry.files, entry.content)
        except Exception as e:  # noqa: BLE001 - one file must not end the agent, whatever its parser raises
            problem = str(e) if isinstance(e, Unusable) else f"{entry.files[0]} cannot be used ({type(e).__name__})"
            if problem != entry.problem and (entry.content or not entry.quiet):
                self.failures += 1
                what = "certificates are not" if len(entry.files) > 1 else "roots are not"
                log.warning("mounted %s %s: %s", what, "renewed" if entry.content else "served", problem)
            entry.problem = problem
            return False
        changed = content is not entry.content
        entry.content, entry.problem = content, ""
        if changed:
            for name, known in self._names.items():
                if known.entry is entry:
                    self._tell(name, content)
        return changed

    def _tell(self, name: str, content: Content) -> None:
        if self.loaded is not None:
            self.loaded(name, content)
