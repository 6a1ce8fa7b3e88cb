"""Connections to the workload, from the address that the redirect rules know as the proxy's own."""

import asyncio
import errno
import socket
import struct

from agent import lookup

# Inbound traffic from these goes to the application as it is, past Envoy.
SOURCES = {socket.AF_INET: "127.0.0.6", socket.AF_INET6: "::6"}
# ::6 is there only where the rules were written for IPv6, and another machine cannot be reached from either.
_UNUSABLE = (errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENETUNREACH, errno.EAFNOSUPPORT)


async def connect(host: str, port: int) -> socket.socket:
    """A connected non-blocking socket; every address of `host` is tried. Raises OSError."""
    loop = asyncio.get_running_loop()
    last: OSError = OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    for family, address in await lookup.addresses(host, port):
        for source in (SOURCES.get(family), None):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                # A second at most is spent on what is still to be sent when the probe hangs up.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
                if source:
                    sock.bind((source, 0))
                await loop.sock_connect(sock, address)
                return sock
            except OSError as e:
                sock.close()
                last = e
                if e.errno not in _UNUSABLE:
                    break
            except BaseException:
                sock.close()
                raise
    raise last
