"""Addresses, policy rules, routes, and the names in nftables, through netlink, without a process or a library."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from init.errors import InitError
from init.record import record
from init.settings import NATIVE

NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWRULE, DELRULE, GETRULE = 32, 33, 34
REQUEST, ACK, EXCL, CREATE, DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
ERROR, DONE = 2, 3
ROUTE, NETFILTER = 0, 12  # protocols of netlink sockets
GETTABLE, GETCHAIN = 0xA01, 0xA04  # of nftables
NFT_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}
HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
NO_NFTABLES = (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP)  # how a kernel without them answers
NAT = -100  # the priority of destination translation, of iptables and of our native chains
LO = 1  # the index of the loopback interface in every network namespace


def _families(family: int) -> int:
    return socket.AF_INET if family == 4 else socket.AF_INET6


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """{kind: value} of a run of attributes; stops at the first that does not fit."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4 or size > len(data):
            break
        found[kind & 0x3FFF] = data[4:size]
        data = data[(size + 3) & ~3 :]
    return found


def _talk(kind: int, flags: int, body: bytes, protocol: int = ROUTE) -> Iterator[bytes]:
    """Send one request, yield the payload of every answer. Raises OSError with what the kernel answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as s:
        s.settimeout(5)
        s.sendto(struct.pack("=IHHII", 16 + len(body), kind, REQUEST | flags, 1, 0) + body, (0, 0))
        while True:
            data = s.recv(1 << 17)
            while len(data) >= 16:
                size, answer, _, _, _ = struct.unpack_from("=IHHII", data)
                if answer == DONE:
                    return
                if answer == ERROR:
                    code = -struct.unpack_from("=i", data, 16)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield data[16:size]
                data = data[(size + 3) & ~3 :]


def _dump(kind: int, family: int, header: int) -> list[bytes]:
    try:
        return list(_talk(kind, DUMP, bytes([family]) + bytes(header - 1)))
    except OSError as e:
        if e.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):  # a kernel without this family
            return []
        raise InitError(f"the kernel does not list addresses and routes: {e.strerror or e}") from None


def addresses() -> list[tuple[int, str]]:
    """(interface index, address) of every address: all of IPv4 first, then IPv6, as the kernel lists them."""
    found = []
    for data in _dump(GETADDR, socket.AF_UNSPEC, 8):
        family, index = data[0], struct.unpack_from("=I", data, 4)[0]
        given = attributes(data[8:])
        raw = given.get(2) or given.get(1)  # IFA_LOCAL, IFA_ADDRESS
        if family in (socket.AF_INET, socket.AF_INET6) and raw:
            found.append((index, socket.inet_ntop(family, raw)))
    return found


def rules(family: int) -> list[tuple[int, int]]:
    """(mark, table) of every policy rule that does nothing but look up a table for a whole mark."""
    found = []
    for data in _dump(GETRULE, _families(family), 12):
        given = attributes(data[12:])
        mark = struct.unpack("=I", given.get(10, bytes(4)))[0]
        mask = struct.unpack("=I", given.get(16, b"\xff" * 4))[0]
        table = struct.unpack("=I", given[15])[0] if 15 in given else data[4]
        plain = data[1] == 0 and data[2] == 0 and not given.keys() & {1, 2, 3, 17}
        if mark and mask == 0xFFFFFFFF and plain and data[7] == 1:
            found.append((mark, table))
    return found


def local_defaults(family: int) -> list[int]:
    """The tables that deliver everything locally through lo."""
    found = []
    for data in _dump(GETROUTE, _families(family), 12):
        if data[0] != _families(family):
            continue
        given = attributes(data[12:])
        out = struct.unpack("=I", given.get(4, bytes(4)))[0]
        table = struct.unpack("=I", given[15])[0] if 15 in given else data[4]
        if data[1] == 0 and data[7] == 2 and out == LO:
            found.append(table)
    return found


def change_rule(family: int, mark: int, table: int, *, add: bool) -> None:
    header = struct.pack("=BBBBBBBBI", _families(family), 0, 0, 0, table if table < 256 else 0, 0, 0, 1, 0)
    body = header + attribute(10, struct.pack("=I", mark)) + attribute(15, struct.pack("=I", table))
    list(_talk(NEWRULE if add else DELRULE, ACK | (CREATE | EXCL if add else 0), body))


def change_route(family: int, table: int, *, add: bool) -> None:
    """`local default dev lo table N`."""
    scope, short = (254 if family == 4 else 0), (table if table < 256 else 252)
    header = struct.pack("=BBBBBBBBI", _families(family), 0, 0, 0, short, 3, scope, 2, 0)
    body = header + attribute(15, struct.pack("=I", table)) + attribute(4, struct.pack("=I", LO))
    list(_talk(NEWROUTE if add else DELROUTE, ACK | (CREATE | EXCL if add else 0), body))


def change_address(address: str, *, add: bool) -> None:
    """A single IPv6 address on lo."""
    raw = socket.inet_pton(socket.AF_INET6, address)
    body = struct.pack("=BBBBI", socket.AF_INET6, 128, 0, 0, LO) + attribute(2, raw) + attribute(1, raw)
    list(_talk(NEWADDR if add else DELADDR, ACK | (CREATE | EXCL if add else 0), body))


@record
class NftChain:
    """A chain of nftables; only a base chain has a hook, a type and a priority. `uses` counts its rules and jumps."""

    family: str
    table: str
    name: str
    hook: str
    kind: str
    priority: int
    uses: int


def nft_tables() -> list[tuple[str, str]] | None:
    """(family, name) of every table of nftables; None when the kernel has none."""
    answers = _nft_dump(GETTABLE)
    if answers is None:
        return None
    return [(NFT_FAMILIES.get(d[0], "?"), _text(attributes(d[4:]), 1)) for d in answers]


def nft_chains() -> list[NftChain]:
    """Every chain of nftables."""
    found = []
    for data in _nft_dump(GETCHAIN) or ():
        given = attributes(data[4:])
        hook = attributes(given.get(4, b""))
        number = struct.unpack("!I", hook[1])[0] if 1 in hook else -1
        priority = struct.unpack("!i", hook.get(2, bytes(4)))[0]
        uses = struct.unpack("!I", given.get(6, bytes(4)))[0]
        names = NFT_FAMILIES.get(data[0], "?"), _text(given, 1), _text(given, 3)
        found.append(NftChain(*names, HOOKS.get(number, ""), _text(given, 7), priority, uses))
    return found


def _nft_dump(kind: int) -> list[bytes] | None:
    try:
        return list(_talk(kind, DUMP, bytes(4), NETFILTER))
    except OSError as e:
        if e.errno in NO_NFTABLES:
            return None
        raise InitError(f"the kernel does not list the tables of nftables: {e.strerror or e}") from None


def _text(given: dict[int, bytes], kind: int) -> str:
    return given.get(kind, b"").rstrip(b"\0").decode(errors="replace")


def own_tables() -> list[str]:
    """The names of our tables of native rules that exist."""
    there = nft_tables() or ()
    return [name for family, name in there if family == "inet" and name.startswith(NATIVE)]


def ahead(chains: Sequence[NftChain], *, native: bool) -> list[str]:
    """Chains of others that translate destinations before our rules are asked, one phrase each.

    At equal priority the chain that was registered last comes first, which nobody can tell from outside.
    """
    found = []
    for c in chains:
        if c.kind != "nat" or c.hook not in ("prerouting", "output") or not c.uses or c.table.startswith(NATIVE):
            continue
        if c.priority < NAT or (native and c.priority == NAT):
            may = "decides" if c.priority < NAT else "may decide"
            found.append(f"chain {c.name} of table {c.family} {c.table} {may} about destinations before our rules")
    return found
