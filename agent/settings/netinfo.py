"""The addresses of this machine, read over netlink (no helper program, no heavy import on the start-up path)."""

import socket
import struct
import time
from collections.abc import Container
from typing import Any

_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_GETLINK, _GETADDR = 18, 22
_DONE, _ERROR = 3, 2
_IFLA_IFNAME, _IFA_ADDRESS, _IFA_LOCAL = 3, 1, 2
_UP, _LOOPBACK = 0x1, 0x8

POLL, PATIENCE = 0.1, 120.0  # seconds
RESOLVE_TIME = 15.0  # seconds


def canonical_ip(text: str) -> str:
    """One spelling per address: lower case, shortest IPv6, IPv4-mapped unwrapped; "" if `text` is no address."""
    try:
        if ":" not in text:
            return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, text))
        raw = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return ""
    return _unwrap(raw)


def _unwrap(raw: bytes) -> str:
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if raw[:12] == b"\0" * 10 + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def usable(ip: str) -> bool:
    """Whether a peer could reach `ip`: not loopback, link-local (unicast, multicast) or unspecified."""
    if ":" not in ip:
        return not ip.startswith(("127.", "169.254.", "224.0.0.")) and ip != "0.0.0.0"
    raw = socket.inet_pton(socket.AF_INET6, ip)
    link_local = raw[0] == 0xFE and raw[1] & 0xC0 == 0x80
    multicast = raw[0] == 0xFF and raw[1] & 0x0F == 2
    return not (link_local or multicast) and ip not in ("::", "::1")


def interface_ips(excluded: Container[str] = ()) -> tuple[str, ...]:
    """Usable addresses of every interface that is up, except those named in `excluded`; in interface order.

    Waits up to two minutes while an interface has been given an address that is still unspecified.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        found, complete = _scan(excluded)
        if complete or time.monotonic() >= deadline:
            return found
        time.sleep(POLL)


def _scan(excluded: Container[str]) -> tuple[tuple[str, ...], bool]:
    """(usable addresses, whether none is unspecified)."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
            sock.settimeout(2)
            links = dict(_links(sock))
            found = list(_addresses(sock))
    except OSError:
        return (), True
    found.sort(key=lambda item: item[0])  # stable: the kernel's order within one interface
    out: list[str] = []
    complete = True
    for index, raw in found:
        name, flags = links.get(index, ("", 0))
        ip = _unwrap(raw)
        if not flags & _UP or flags & _LOOPBACK or name in excluded:
            continue
        if ip in ("0.0.0.0", "::"):
            complete = False
        elif usable(ip) and ip not in out:
            out.append(ip)
    return tuple(out), complete


def _links(sock: socket.socket) -> "list[tuple[int, tuple[str, int]]]":
    """(index, (name, flags)) of every interface. Source: struct ifinfomsg, rtnetlink(7)."""
    out = []
    for payload in _dump(sock, _GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", payload)
        name = _attributes(payload, 16).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
        out.append((index, (name, flags)))
    return out


def _addresses(sock: socket.socket) -> "list[tuple[int, bytes]]":
    """(interface index, packed address) of every address. Source: struct ifaddrmsg, rtnetlink(7)."""
    out = []
    for payload in _dump(sock, _GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        family, _, _, _, index = struct.unpack_from("=BBBBI", payload)
        if family in (socket.AF_INET, socket.AF_INET6):
            found = _attributes(payload, 8)
            # On a point-to-point link IFA_ADDRESS is the other end.
            if raw := found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS):
                out.append((index, raw))
    return out


def _dump(sock: socket.socket, kind: int, body: bytes) -> "list[bytes]":
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, _DUMP, kind, 0) + body)
    out: list[bytes] = []
    while True:
        data = sock.recv(1 << 17)
        offset = 0
        while offset + 16 <= len(data):
            length, message, _, _, _ = struct.unpack_from("=IHHII", data, offset)
            if message == _DONE:
                return out
            if message == _ERROR or length < 16:
                raise OSError("netlink refused to list interfaces")
            out.append(data[offset + 16 : offset + length])
            offset += (length + 3) & ~3


def _attributes(payload: bytes, offset: int) -> dict[int, bytes]:
    out = {}
    while offset + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, offset)
        if length < 4:
            break
        out[kind] = payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return out


def resolve_udp(host: str, port: int) -> str:
    """`ip:port` of a host name, IPv4 preferred; raises OSError if the name does not resolve within 15 s."""
    from threading import Thread

    found: list[Any] = []

    def look() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM))
        except (OSError, UnicodeError):  # the latter for a label that is empty or too long
            return

    resolver = Thread(target=look, name="statsd-resolver", daemon=True)  # there is no other way to bound it
    resolver.start()
    resolver.join(RESOLVE_TIME)
    if not found:
        raise OSError(f"{host!r} does not resolve")
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    ip = str(found[0][4][0])
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
