"""A small file that is there as a whole or not at all."""

import os


def write(path: str, text: str, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Replace `path` at once, with exactly `mode` and perhaps `owner` (uid, gid). Raises OSError, leaving nothing."""
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(fd, mode)
            if owner is not None:
                os.fchown(fd, *owner)
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
