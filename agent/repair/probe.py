"""Are the redirect rules in place? Found out by connecting, for an agent that may not read them."""

import asyncio
import socket
from enum import Enum


class Capture(Enum):
    IN_PLACE = "in place"
    GONE = "gone"
    UNKNOWN = "unknown"  # Envoy's inbound listener does not answer, so a refusal would mean nothing


TIMEOUT = 1.0  # seconds for one connect
SOURCE = "127.0.0.1"
TARGET = "127.0.0.6"  # the rules turn the proxy's own connections to it into inbound ones; nothing listens there


async def probe(target_port: int, inbound_port: int) -> Capture:
    """One look, as the proxy's user: with rules the connect reaches Envoy's inbound listener, without it is refused."""
    if await _accepted(TARGET, target_port):
        return Capture.IN_PLACE
    # 127.0.0.1 is never redirected: is the listener there that the rules would have led to?
    return Capture.GONE if await _accepted(SOURCE, inbound_port) else Capture.UNKNOWN


async def _accepted(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        # An RST instead of a TIME_WAIT entry: probes come for as long as the pod lives.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        try:
            sock.bind((SOURCE, 0))
            async with asyncio.timeout(TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except OSError:  # TimeoutError is one; what says nothing about the rules makes both connects fail: UNKNOWN
            return False
        return True
