"""Local answers: a reply is built once and then only stamped with an id and turned to another first address."""

from collections.abc import Callable
from struct import pack

from agent.dns import message
from agent.dns.message import AA, AAAA, CNAME, IN, TC, A, Query
from agent.dns.table import Addresses, HostTable, Match

TTL = 30  # seconds


class Answer:
    """One local reply, reusable for every query with the same bytes behind the id."""

    __slots__ = ("_count", "_end", "_head", "_ring", "_size", "_skip", "_tail")

    def __init__(self, head: bytes, ring: bytes, size: int, count: int, window: int, skip: int, tail: bytes) -> None:
        self._head = head
        self._ring = ring  # the address records twice over, so that each rotation is one slice
        self._size = size
        self._count = count
        self._skip = skip  # bytes of the first record that `head` already spells out
        self._end = window * size
        self._tail = tail

    def wire(self, ident: bytes, random: float) -> bytes:
        """The reply to the query with this two-byte id; `random` in [0, 1) picks the first address."""
        start = int(random * self._count) * self._size
        return ident + self._head + self._ring[start + self._skip : start + self._end] + self._tail

    @property
    def fixed(self) -> bytes | None:
        """The bytes behind the id if they are always the same."""
        return self.wire(b"", 0.0) if self._count < 2 else None

    @property
    def weight(self) -> int:
        """Bytes that keeping this answer costs, roughly."""
        return len(self._head) + len(self._ring) + len(self._tail) + 200


def local(query: Query, table: HostTable, limit: int, random: Callable[[], float]) -> Answer | None:
    """The answer from the host table in at most `limit` bytes; None if the question is for somebody else.

    A known host without an address of the wanted family gets an empty answer, never NXDOMAIN.
    """
    if query.qtype not in (A, AAAA) or query.qclass != IN:
        return None
    match = table.find(query.name)
    return None if match is None else _build(query, match, limit, random)


def _build(query: Query, match: Match, limit: int, random: Callable[[], float]) -> Answer:
    name = query.question[:-4]
    lower = name.lower()
    tail = message.opt(query)
    # Owner names are lower-case: a pointer to the question will do if the client wrote it so.
    where = message.HEADER_SIZE
    owner = _pointer(where)
    spelled = b""  # what stands between the question and the records that point
    if lower != name:
        where, owner, spelled = message.HEADER_SIZE + len(query.question), lower, lower
    prefix = b""
    if match.target is not None:
        target = message.encode_name(match.target)
        prefix, spelled = message.record(owner, CNAME, TTL, target), b""
        where = message.HEADER_SIZE + len(query.question) + len(prefix) - len(target)
    data = _shuffled(_of(match.addresses, query.qtype), random)
    records = [message.record(_pointer(where), query.qtype, TTL, ip) for ip in data]
    size = len(records[0]) if records else 0
    skip = 2 if spelled and records else 0
    room = limit - message.HEADER_SIZE - len(query.question) - len(tail) - len(prefix)
    window = 0
    if records:
        window = max(0, min(len(records), (room - len(spelled) + skip) // size))
    if not window:
        spelled, skip = b"", 0
    cut = TC if window < len(records) or room < 0 else 0
    if room < 0:
        prefix = b""  # a client with a very long name and a very small buffer
        window = 0
    flags = message.reply_flags(query, AA, cut)
    answers = (1 if prefix else 0) + window
    head = message.head(query, flags, answers, bool(tail)) + prefix + spelled
    return Answer(head, b"".join(records) * 2, size, len(records) if window else 0, window, skip, tail)


def _of(ips: Addresses, qtype: int) -> tuple[bytes, ...]:
    return ips.v4 if qtype == A else ips.v6


def _pointer(offset: int) -> bytes:
    return pack("!H", 0xC000 | offset)


def _shuffled(items: tuple[bytes, ...], random: Callable[[], float]) -> list[bytes]:
    """A random order, so that the neighbour of a dead address does not get all of its load."""
    out = list(items)
    for i in range(len(out) - 1, 0, -1):
        j = int(random() * (i + 1))
        out[i], out[j] = out[j], out[i]
    return out
