"""The DNS wire format, as much of it as a proxy needs: read a query, cut a reply. Sources: RFC 1035, 6891, 9619."""

from struct import Struct, pack, unpack_from
from typing import NamedTuple

QR, OPCODE, AA, TC, RD, RA, CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP = 0, 1, 2, 3, 4
A, CNAME, AAAA, OPT = 1, 5, 28, 41
IN = 1
HEADER_SIZE = 12
MIN_UDP, MAX_UDP, MAX_TCP = 512, 65507, 65535
OUR_PAYLOAD = 1232  # what we advertise: the size that crosses any path unfragmented

_HEADER = Struct("!6H")
_RECORD = Struct("!HHIH")  # type, class, ttl, length of the data
_DO = 0x8000
_MAX_NAME = 255


class FormatError(ValueError):
    """The bytes are not the DNS message they claim to be."""


class Query(NamedTuple):
    """A well-formed query. `name` is lower-case without the final dot; odd bytes in labels are escaped as `\\123`."""

    flags: int
    name: str
    qtype: int
    qclass: int
    question: bytes  # name, type and class as the client wrote them
    payload: int  # the UDP size the client advertised; 0 = no EDNS
    dnssec_ok: bool

    @property
    def limit(self) -> int:
        """Bytes that a UDP reply to this client may have."""
        return min(max(MIN_UDP, self.payload), MAX_UDP)


def read(packet: bytes) -> Query | int | None:
    """What a client's packet is: a query, an rcode to refuse it with, or None for what must not be answered."""
    if len(packet) < HEADER_SIZE:
        return None
    _, flags, questions, *_ = _HEADER.unpack_from(packet)
    if flags & QR:
        return None  # answering answers would let two servers talk to each other for ever
    if flags & OPCODE:
        return NOTIMP
    if not questions:
        return SERVFAIL
    try:
        return parse(packet)
    except FormatError:
        return FORMERR


def parse(packet: bytes) -> Query:
    """Read a query; FormatError for anything but one question and sections that are really there."""
    size = len(packet)
    if size < HEADER_SIZE:
        raise FormatError("shorter than a header")
    _, flags, questions, answers, authority, additional = _HEADER.unpack_from(packet)
    if questions != 1:
        raise FormatError(f"{questions} questions")
    labels = []
    at = HEADER_SIZE
    while True:
        if at >= size:
            raise FormatError("the name runs over the end")
        length = packet[at]
        at += 1
        if not length:
            break
        # A compression pointer in the first name of a message could only point into the header or itself.
        if length > 63 or at + length > size:
            raise FormatError("bad label")
        labels.append(_text(packet[at : at + length]))
        at += length
    if at - HEADER_SIZE > _MAX_NAME or at + 4 > size:
        raise FormatError("bad question")
    qtype, qclass = unpack_from("!HH", packet, at)
    at += 4
    question = packet[HEADER_SIZE:at]
    payload, dnssec_ok = 0, False
    for _ in range(answers + authority + additional):
        kind, udp_size, ttl, at = _record(packet, at)
        if kind == OPT:
            payload, dnssec_ok = max(1, udp_size), bool(ttl & _DO)
    return Query(flags, ".".join(labels), qtype, qclass, question, payload, dnssec_ok)


def _text(label: bytes) -> str:
    """A label as lower-case text; a dot or backslash inside it can never look like a separator."""
    text = label.lower().decode("latin-1")
    if text.isascii() and text.isprintable() and "." not in text and "\\" not in text:
        return text
    return "".join(c if c.isascii() and c.isprintable() and c not in ".\\" else f"\\{ord(c):03d}" for c in text)


def encode_name(name: str) -> bytes:
    """Wire form of a dotted name without escapes; FormatError if it cannot be one."""
    out = b"".join(_label(label) for label in name.rstrip(".").split(".")) if name not in ("", ".") else b""
    if len(out) >= _MAX_NAME:
        raise FormatError(f"{name!r} is longer than a name may be")
    return out + b"\0"


def _label(text: str) -> bytes:
    try:
        label = text.encode("ascii")
    except UnicodeEncodeError:
        raise FormatError(f"{text!r} is not a label") from None
    if not 0 < len(label) < 64:
        raise FormatError(f"{text!r} is not a label")
    return bytes((len(label),)) + label


def record(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    """One resource record of class IN; `owner` is a wire name or pointer."""
    return owner + _RECORD.pack(kind, IN, ttl, len(data)) + data


def opt(query: Query) -> bytes:
    """The EDNS record that a reply to `query` carries: none if the client sent none (RFC 6891 7)."""
    return b"\0" + _RECORD.pack(OPT, OUR_PAYLOAD, _DO if query.dnssec_ok else 0, 0) if query.payload else b""


def reply_flags(query: Query, *more: int) -> int:
    """Flags of our own reply: the client's RD and CD come back, recursion is available."""
    return QR | RA | (query.flags & (RD | CD)) | sum(more)


def head(query: Query, flags: int, answers: int, has_opt: bool) -> bytes:
    """Header without the id, and the question."""
    return pack("!5H", flags, 1, answers, 0, int(has_opt)) + query.question


def error(packet: bytes, rcode: int, query: Query | None = None) -> bytes:
    """A reply that says `rcode` to `packet` (at least a header long); it repeats the question if that could be read."""
    if query is not None:
        tail = opt(query)
        return packet[:2] + head(query, reply_flags(query, rcode), 0, bool(tail)) + tail
    flags = unpack_from("!H", packet, 2)[0]
    return packet[:2] + pack("!5H", QR | (flags & (OPCODE | RD)) | rcode, 0, 0, 0, 0)


def answers_to(reply: bytes, ident: bytes, question: bytes) -> bool:
    """Whether `reply` is a response to the query with this id and question (in any case); anything else is not ours."""
    if len(reply) < HEADER_SIZE or reply[:2] != ident or not reply[2] & 0x80:
        return False
    end = HEADER_SIZE + len(question)
    echoed = reply[HEADER_SIZE:end]
    if reply[4:6] == b"\0\1" and len(echoed) == len(question):
        return echoed == question or (
            echoed[-4:] == question[-4:] and echoed[:-4].lower() == question[:-4].lower()  # type and class exactly
        )
    # Servers that could not even read the query refuse it without repeating the question.
    return reply[4:6] == b"\0\0" and bool(reply[3] & 0x0F)


def fit(reply: bytes, limit: int) -> bytes:
    """`reply` cut at a record boundary to at most `limit` bytes (>= 512): whole if it fits, else marked with TC.

    EDNS is kept, additional data goes first. A reply that cannot be parsed shrinks to its question and TC.
    """
    if len(reply) <= limit:
        return reply
    ident, flags, questions, answers, authority, additional = _HEADER.unpack_from(reply)
    try:
        at = HEADER_SIZE
        for _ in range(questions):
            at = _skip_name(reply, at) + 4
        if at > limit:
            raise FormatError("the question alone is too long")
    except FormatError:
        return _HEADER.pack(ident, flags | TC, 0, 0, 0, 0)
    start = at
    edns = b""
    ends: list[int] = []
    try:
        for _ in range(answers + authority + additional):
            begin = at
            kind, _, _, at = _record(reply, at)
            if kind == OPT and len(ends) >= answers + authority:
                edns = reply[begin:at]
                # Records behind it would move; they are additional data and the first to go.
                break
            ends.append(at)
    except FormatError:
        ends = []
    if start + len(edns) > limit:
        edns = b""
    keep = 0
    while keep < len(ends) and ends[keep] + len(edns) <= limit:
        keep += 1
    cut = keep < answers + authority
    end = ends[keep - 1] if keep else start
    counts = (
        min(keep, answers),
        min(max(0, keep - answers), authority),
        max(0, keep - answers - authority) + bool(edns),
    )
    return _HEADER.pack(ident, flags | (TC if cut else 0), questions, *counts) + reply[HEADER_SIZE:end] + edns


def _skip_name(packet: bytes, at: int) -> int:
    """Offset behind the name at `at`; pointers are stepped over, never followed."""
    size = len(packet)
    while at < size:
        length = packet[at]
        if length >= 0xC0:
            return at + 2
        if length > 63:
            break
        at += 1 + length
        if not length:
            return at
    raise FormatError("bad name")


def _record(packet: bytes, at: int) -> tuple[int, int, int, int]:
    """Type, class, ttl of the record at `at` and the offset behind it."""
    at = _skip_name(packet, at)
    if at + 10 > len(packet):
        raise FormatError("a record is cut short")
    kind, klass, ttl, length = _RECORD.unpack_from(packet, at)
    at += 10 + length
    if at > len(packet):
        raise FormatError("a record is cut short")
    return kind, klass, ttl, at
