"""Key, chain and roots as files (OUTPUT_CERTS), replaced so that a reader finds whole ones that belong together."""

import contextlib
import os
import re
from collections.abc import Mapping

from agent.sds import files

# In the order in which they are replaced: key and chain change within one rename of each other.
ROOT, KEY, CHAIN = NAMES = ("root-cert.pem", "key.pem", "cert-chain.pem")
_TEMPORARY = re.compile(rf"(?:{'|'.join(map(re.escape, NAMES))})\.tmp\.([0-9]+)")


def replace(directory: str, contents: Mapping[str, bytes], mode: int) -> list[str]:
    """Write files (some of NAMES) atomically, each only if its content or mode changed. Returns the names written.

    New content is complete, on the disk as well, before the first rename. The directory is made if it is not there.
    Raises OSError.
    """
    os.makedirs(directory, mode=0o755 if mode & 0o044 else 0o700, exist_ok=True)
    staged: list[tuple[str, str]] = []
    try:
        for name in NAMES:
            target = os.path.join(directory, name)
            if name not in contents or _holds(target, contents[name], mode):
                continue
            temporary = f"{target}.tmp.{os.getpid()}"
            staged.append((temporary, target))
            _create(temporary, contents[name], mode)
        for temporary, target in staged:
            os.replace(temporary, target)
    except OSError:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise
    return [os.path.basename(target) for _, target in staged]


def mend(directory: str) -> None:
    """Finish or remove what agents that are gone left half-done: it may hold a key. Raises OSError.

    Whoever was killed after the new key and before its chain has left a pair that no CA would accept from a VM.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    key, chain = os.path.join(directory, KEY), os.path.join(directory, CHAIN)
    for name in names:
        made = _TEMPORARY.fullmatch(name)
        if made is None or (int(made[1]) != os.getpid() and os.path.exists(f"/proc/{made[1]}")):
            continue
        left = os.path.join(directory, name)
        if name.startswith(CHAIN) and _belong_together(left, key) and not _belong_together(chain, key):
            os.replace(left, chain)
        else:
            os.unlink(left)


def _belong_together(chain: str, key: str) -> bool:
    try:
        files.load((chain, key))
    except files.Unusable:
        return False
    return True


def _holds(path: str, content: bytes, mode: int) -> bool:
    try:
        with open(path, "rb") as f:
            return os.fstat(f.fileno()).st_mode & 0o777 == mode and f.read(len(content) + 1) == content
    except OSError:
        return False


def _create(path: str, content: bytes, mode: int) -> None:
    """A new file that nobody else can open before its mode is right."""
    with contextlib.suppress(FileNotFoundError):  # left behind by a crash
        os.unlink(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as f:
        os.fchmod(f.fileno(), mode)
        f.write(content)
        f.flush()
        os.fsync(f.fileno())  # a VM that loses power must find the certificate that it will show to the CA
