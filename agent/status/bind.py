"""The status port's socket, bound before the event loop exists: kept apart so that nothing heavy is imported for it."""

import errno
import socket

from agent.errors import FatalError

BACKLOG = 1024


def bind(port: int) -> socket.socket:
    """A listening socket on every address, IPv4 and IPv6; before the event loop exists callers wait in its backlog.

    FatalError (one sentence): the port is taken or may not be used.
    """
    try:
        return _listen(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT):
            raise FatalError(_refusal(port, error)) from error
    try:
        return _listen(socket.AF_INET, "0.0.0.0", port)  # a kernel without IPv6
    except OSError as error:
        raise FatalError(_refusal(port, error)) from error


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _refusal(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"The status port {port} is taken by another process (`ss -ltnp sport = :{port}` names it); "
            "end it or set statusPort in the proxy config."
        )
    return f"The status port {port} cannot be used: {error.strerror}; set statusPort in the proxy config."
