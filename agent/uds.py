"""Unix sockets to serve on. Light enough for the first milliseconds: they exist before Envoy looks for them."""

import os
import socket
import stat
from contextlib import suppress

from agent import logs
from agent.errors import FatalError

log = logs.scope("default")

BACKLOG = 4096
# The kernel's limit for the address of a unix socket, without the final zero.
MAX_PATH = 107


def clear(path: str) -> None:
    """Make the parent directories (0750) and remove a socket, file or link at `path`; a link's target stays.

    Whoever must not be replaced (an external server) is checked for before. Raises FatalError with one sentence.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise FatalError(f"the socket path {path} is longer than {MAX_PATH} bytes; use a shorter one")
    parent = os.path.dirname(path) or "."
    try:
        _make(parent)
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


def _make(path: str) -> None:
    """`os.makedirs` gives the mode to the last directory only."""
    if not os.path.isdir(path):
        _make(os.path.dirname(path) or ".")
        os.mkdir(path, 0o750)


def listen(path: str) -> socket.socket:
    """A non-blocking listener at `path`, open to everybody (0666), in place of whatever a former run left there.

    Whoever connects is served once somebody accepts. Raises FatalError with one sentence.
    """
    clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o111)
    try:
        listener.bind(path)  # Envoy may be another user and dials at once: the mode is right from the start
        os.chmod(path, 0o666)
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        reason = f"{e.strerror or e}; is its directory writable for this user?"
        raise FatalError(f"cannot bind the socket {path}: {reason}") from e
    finally:
        os.umask(mask)
    return listener


def close(listener: socket.socket) -> None:
    """Stop listening and remove the socket from its directory. Harmless if that has been done."""
    if listener.fileno() >= 0:
        path = listener.getsockname()
        listener.close()
        with suppress(OSError):  # somebody was faster
            os.unlink(path)
