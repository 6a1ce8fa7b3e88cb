"""OUTPUT_CERTS: the certificate in use as files, for programs that are not Envoy."""

import contextlib
import os
from collections.abc import Mapping

from agent.model import Secret

# In the order in which they are replaced: key and chain change within one rename of each other.
ROOT, KEY, CHAIN = NAMES = ("root-cert.pem", "key.pem", "cert-chain.pem")


def write(directory: str, secret: Secret, mode: int) -> list[str]:
    """Write root, key and chain of the certificate in use. Returns the names written. Raises OSError."""
    return replace(directory, {ROOT: secret.roots, KEY: secret.key, CHAIN: secret.chain}, mode)


def replace(directory: str, contents: Mapping[str, bytes], mode: int) -> list[str]:
    """Write files (some of NAMES) atomically, each only if its content changed. Returns the names written.

    New content is complete before the first rename. The directory is made if it is not there. Raises OSError.
    """
    os.makedirs(directory, mode=0o755 if mode & 0o044 else 0o700, exist_ok=True)
    staged: list[tuple[str, str]] = []
    try:
        for name in NAMES:
            target = os.path.join(directory, name)
            if name not in contents or _read(target) == contents[name]:
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


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return None


def _create(path: str, content: bytes, mode: int) -> None:
    """A new file that nobody else can open before its mode is right."""
    with contextlib.suppress(FileNotFoundError):  # left behind by a crash
        os.unlink(path)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        os.fchmod(f.fileno(), mode)
        f.write(content)
