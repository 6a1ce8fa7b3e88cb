"""Making room for a unix socket. Light enough for the first milliseconds: Envoy must not dial a former run's."""

import os
import stat

from agent import logs
from agent.errors import FatalError

log = logs.scope("default")

# The kernel's limit for the address of a unix socket, without the final zero.
MAX_PATH = 107


def clear(path: str) -> None:
    """Make the parent directory (0750) and remove a socket, file or link at `path`; a link's target stays.

    Whoever must not be replaced (an external server) is checked for before. Raises FatalError with one sentence.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise FatalError(f"the socket path {path} is longer than {MAX_PATH} bytes; use a shorter one")
    parent = os.path.dirname(path) or "."
    try:
        os.makedirs(parent, mode=0o750, exist_ok=True)
    except OSError as e:
        log.warning("cannot create %s: %s", parent, e.strerror or e)
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise FatalError(f"cannot bind the socket {path}: a directory is in its place; remove it")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as e:
        raise FatalError(f"cannot remove {path} to bind a socket there: {e.strerror or e}") from e
