"""Proof that redirection works: a connection of the proxy to its own pod must arrive at the inbound port.

The probe goes from the loopback address to 127.0.0.6 (or ::6) and a port nobody listens on; only the rules can bring
it to the proxy's port, where SO_ORIGINAL_DST tells that it is ours. It must be made by the proxy's uid.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from contextlib import ExitStack

from init.config import network
from init.errors import ValidationError
from init.settings import InitConfig

ORIGINAL_DST = 80
PERIOD = 1.0  # seconds between two attempts


def validate(config: InitConfig) -> None:
    """Raises ValidationError (exit 126) when the probe does not arrive within the configured time."""
    for family in (4, 6) if config.v6 else (4,):
        if family == 4 and covers_passthrough(config.loopback4):
            continue  # with so wide a loopback range no address is left that could prove anything
        if not probe(config, family):
            raise ValidationError(
                f"the redirect rules of IPv{family} are not in force: a connection of uid {config.uids[0]} to port"
                f" {config.probe_port} did not reach the proxy within {config.probe_timeout:g} seconds; if a CNI plugin"
                " should have written them, check that it runs on this node and restart the pod"
            )


def covers_passthrough(loopback: str) -> bool:
    bits = loopback.partition("/")[2]
    return network(f"127.0.0.6/{bits}")[1] == loopback


def probe(config: InitConfig, family: int) -> bool:
    """Whether one attempt arrived in time."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    here, there = ("127.0.0.1", "127.0.0.6") if family == 4 else ("::1", "::6")
    deadline = time.monotonic() + config.probe_timeout
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(s)
            for port in (config.proxy_port, config.inbound_port)
            if (s := listen(kind, here, port)) is not None
        ]
        while listeners and time.monotonic() < deadline:
            end = min(deadline, time.monotonic() + PERIOD)
            with as_proxy(config, kind) as client:
                client.bind((here, 0))
                refused = client.connect_ex((there, config.probe_port)) not in (0, errno.EINPROGRESS)
                if not refused and arrived(listeners, client, family, config.probe_port, end):
                    return True
            time.sleep(max(0.0, end - time.monotonic()))
    return False


def listen(kind: socket.AddressFamily, host: str, port: int) -> socket.socket | None:
    """A listener beside the proxy's own, if there is one already; None when the port cannot be had."""
    s = socket.socket(kind, socket.SOCK_STREAM)
    try:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.setblocking(False)
        s.bind((host, port))
        s.listen(16)
    except OSError:
        s.close()
        return None
    return s


def as_proxy(config: InitConfig, kind: socket.AddressFamily) -> socket.socket:
    """A socket of the proxy's user: the rules look at who made it, and root can make it for somebody else."""
    uid = config.uids[0].partition("-")[0]
    if os.geteuid() != 0 or uid == "0":
        s = socket.socket(kind, socket.SOCK_STREAM)
    else:
        os.seteuid(int(uid))
        try:
            s = socket.socket(kind, socket.SOCK_STREAM)
        finally:
            os.seteuid(0)
    s.setblocking(False)
    return s


def arrived(listeners: list[socket.socket], client: socket.socket, family: int, port: int, end: float) -> bool:
    """Whether a connection with our original port is accepted before `end`."""
    waiting = True
    while (left := end - time.monotonic()) > 0:
        ready, done, _ = select.select(listeners, [client] if waiting else [], [], left)
        for listener in ready:
            try:
                connection = listener.accept()[0]
            except OSError:
                continue
            with connection:
                if original_port(connection, family) == port:
                    return True
        if done:
            waiting = False
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return False
    return False


def original_port(connection: socket.socket, family: int) -> int:
    """The port a redirected connection was meant for; 0 when it was not redirected."""
    level, size = (socket.IPPROTO_IP, 16) if family == 4 else (socket.IPPROTO_IPV6, 28)
    try:
        raw = connection.getsockopt(level, ORIGINAL_DST, size)
    except OSError:
        return 0
    found: int = struct.unpack_from("!H", raw, 2)[0]
    return found
