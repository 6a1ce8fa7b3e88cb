"""A UDP socket on every address that answers from the address it was asked on, as redirected clients must see it."""

import socket
from struct import Struct
from typing import Any

_IP_PKTINFO = 8  # linux/in.h; the socket module has no name for it before Python 3.14
_V4 = Struct("@I4s4s")  # interface, local address, destination of the header
_V6 = Struct("@16sI")  # destination, interface
_ROOM = socket.CMSG_SPACE(_V6.size) + socket.CMSG_SPACE(_V4.size)

Peer = tuple[Any, list[tuple[int, int, bytes]]]  # the client, and from where to answer it


class AnyAddressSocket:
    """Looks like the socket it wraps; its peers carry the local address along."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.fileno, self.close, self.getsockname = sock.fileno, sock.close, sock.getsockname
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

    def recvfrom(self, size: int) -> tuple[bytes, Peer]:
        data, control, _, peer = self._sock.recvmsg(size, _ROOM)
        return data, (peer, [c for c in map(_source, control) if c])

    def sendto(self, data: bytes, peer: Peer) -> int:
        return self._sock.sendmsg((data,), peer[1], 0, peer[0])


def _source(control: tuple[int, int, bytes]) -> tuple[int, int, bytes] | None:
    """What makes the kernel send from the address that a datagram came to; routing chooses the interface."""
    level, kind, data = control
    if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
        _, local, _ = _V4.unpack(data[: _V4.size])
        return level, kind, _V4.pack(0, local, bytes(4))
    if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
        address, interface = _V6.unpack(data[: _V6.size])
        link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80
        return level, kind, _V6.pack(address, interface if link_local else 0)
    return None
