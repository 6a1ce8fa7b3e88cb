"""Certificates that somebody mounts: `file-cert:<certificate>~<key>`, `file-root:<path>`, `file-root:system`.

A file that is gone, half-written or does not match its key changes nothing: the last good content stays until a better
one parses. When to look is for `follow` to say.
"""

import asyncio
import hashlib
import os
import re
import stat

from agent import logs, pem
from agent.peer import os_bundle
from agent.record import record, state
from agent.sds import resources

log = logs.scope("cache")

MAX_SIZE = 16 << 20
KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----[A-Za-z0-9+/=\s:,-]*?-----END \1-----")


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


def load(files: tuple[str, ...]) -> Content:
    """Read and check a pair or a root. Raises Unusable."""
    data = [_read(path) for path in files]
    version = hashlib.sha256(b"\0".join(data)).hexdigest()[:32]
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


def _read(path: str) -> bytes:
    if not path:
        raise Unusable("the resource name holds no path")
    try:
        # A pipe must not block the loop.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_SIZE:
                raise Unusable(f"{path} is no regular file of at most {MAX_SIZE >> 20} MiB")
            data = f.read(MAX_SIZE)
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
    block = KEY.search(key)
    if block is None:
        raise Unusable(f"{files[1]} holds no whole PEM private key")
    try:
        leaf = x509.load_pem_x509_certificate(blocks[0])
        # Whether its primes are primes (30 ms) is for Envoy to say; a key of another certificate is found without.
        loaded = serialization.load_pem_private_key(block[0], None, unsafe_skip_rsa_key_validation=True)
        matches = loaded.public_key() == leaf.public_key()
    except Exception as e:  # cryptography has a dozen ways to say that it cannot parse; its text may quote the key
        raise Unusable(f"{files[0]} or {files[1]} cannot be parsed ({type(e).__name__})") from e
    if not matches:
        raise Unusable(f"{files[1]} is not the key of the certificate {files[0]}")


def _roots(path: str, data: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    good = []
    for block in pem.certificates(data):
        try:
            good.append(x509.load_pem_x509_certificate(block).public_bytes(serialization.Encoding.PEM))
        except ValueError:
            continue
    if not good:
        raise Unusable(f"{path} holds no PEM certificate that parses")
    return b"".join(good)


@state
class _Tracked:
    files: tuple[str, ...]
    quiet: bool  # it is no failure that they are not there
    users: int = 0
    content: Content | None = None
    problem: str = ""
    signature: tuple[object, ...] = ()


class FileSecrets:
    """The file-backed names that streams are subscribed to."""

    def __init__(self) -> None:
        self._tracked: dict[str, _Tracked] = {}
        self.touched = asyncio.Event()  # set when the names change; whoever follows the files clears it
        self.failures = 0  # num_file_secret_failures_total

    def track(self, name: str, files: tuple[str, ...], quiet: bool = False) -> None:
        """One more stream wants `name`. `quiet`: the files are optional until they were there once."""
        if (entry := self._tracked.get(name)) is None:
            entry = self._tracked[name] = _Tracked(files, quiet)
            self.touched.set()
        entry.users += 1
        if entry.content is None:
            self._refresh(name, entry)

    def untrack(self, name: str) -> None:
        """One stream less."""
        entry = self._tracked[name]
        entry.users -= 1
        if not entry.users:
            del self._tracked[name]
            self.touched.set()

    def names(self) -> list[str]:
        """Every tracked name."""
        return list(self._tracked)

    def paths(self) -> list[str]:
        """Every file of every tracked name."""
        return [path for entry in self._tracked.values() for path in entry.files if path]

    @property
    def unsettled(self) -> bool:
        """Some content is not what the files hold now: somebody may be in the middle of writing them."""
        return any(e.problem and (e.content or not e.quiet) for e in self._tracked.values())

    def get(self, name: str) -> Content | None:
        """The last good content of a tracked name, None while there was none."""
        entry = self._tracked.get(name)
        return entry.content if entry else None

    def problem(self, name: str) -> str:
        """Why a tracked name has no (new) content, "" if all is well."""
        entry = self._tracked.get(name)
        return entry.problem if entry else ""

    def refresh(self, thorough: bool = False) -> bool:
        """Look at every tracked file; true if some content changed. `thorough`: whatever their times say."""
        changed = False
        for name, entry in self._tracked.items():
            # A pair that did not match when it was read may have been half-way through a change.
            if thorough or entry.problem or entry.signature != _signature(entry.files):
                changed |= self._refresh(name, entry)
        return changed

    def _refresh(self, name: str, entry: _Tracked) -> bool:
        entry.signature = _signature(entry.files)  # before reading: a later change shows
        try:
            content = load(entry.files)
        except Unusable as e:
            if str(e) != entry.problem and (entry.content or not entry.quiet):
                self.failures += 1
                log.warning("%s is not %s: %s", name[:200], "renewed" if entry.content else "served", e)
            entry.problem = str(e)
            return False
        changed = entry.content is None or content.version != entry.content.version
        entry.content, entry.problem = content, ""
        return changed
