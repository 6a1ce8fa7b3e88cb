"""Where the DNS proxy listens and which resolvers it uses: reads resolv.conf, binds sockets."""

import os
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from agent import logs
from agent.config import DnsConfig
from agent.dns import resolv
from agent.dns.resolv import ResolvConf
from agent.errors import FatalError

log = logs.scope("dns")

SAVED_RESOLV_CONF = "/var/lib/istio/resolv.conf"  # what resolv.conf was before it named this proxy
RECEIVE_BUFFER = 4 << 20  # bytes; the kernel gives what it allows


class Place(NamedTuple):
    host: str
    port: int
    resolv: ResolvConf
    before_table: bool  # forward everything until the first table: this machine has no other resolver


def place(config: DnsConfig, saved: str = SAVED_RESOLV_CONF) -> Place:
    """Decide on address and resolvers; FatalError with one sentence if that cannot be.

    As root on port 53 the proxy is the machine's resolver: it uses the saved resolv.conf, if any, and serves at once.
    """
    try:
        host, port = resolv.split_address(config.address)
    except ValueError as error:
        raise FatalError(f"DNS_PROXY_ADDR: {error}; give host:port, such as {resolv.DEFAULT_ADDRESS}") from None
    path, first = config.resolv_conf, False
    if port == 53:
        if os.geteuid() == 0:
            first = True
            path = saved if os.path.exists(saved) else path
        else:
            log.error("only root serves DNS on port 53, falling back to %s", resolv.DEFAULT_ADDRESS)
            host, port = resolv.split_address(resolv.DEFAULT_ADDRESS)
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            text = f.read()
    except OSError as error:
        raise FatalError(f"the DNS proxy cannot read {path}: {error.strerror}") from None
    return Place(host, port, resolv.parse(text), first)


def bind(host: str, port: int, servers: Sequence[str]) -> tuple[list[socket.socket], list[socket.socket]]:
    """UDP sockets and listening TCP sockets, non-blocking; all or none (FatalError)."""
    udp: list[socket.socket] = []
    tcp: list[socket.socket] = []
    try:
        for name in resolv.listen_hosts(host, servers):
            family, address = _address(name, port)
            for kind, made in ((socket.SOCK_DGRAM, udp), (socket.SOCK_STREAM, tcp)):
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
                made.append(sock)
                if family == socket.AF_INET6:
                    # An empty host means both families on one socket; a written address means itself.
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(name)))
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    # Port 0 (tests): TCP gets the port that UDP was given.
                    sock.bind((address[0], udp[-1].getsockname()[1], *address[2:]))
                    sock.listen()
                else:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                    sock.bind(address)
    except OSError as error:
        for sock in udp + tcp:
            sock.close()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise FatalError(f"the DNS proxy cannot listen on {where}: {error.strerror or error}") from None
    return udp, tcp


def _address(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    if not host:
        try:
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
        except OSError:
            return socket.AF_INET, ("0.0.0.0", port)
        return socket.AF_INET6, ("::", port)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return found[0], found[4]
