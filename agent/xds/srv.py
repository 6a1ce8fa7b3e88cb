"""SRV records on the wire (RFC 1035, 2782): one question, and the records of its answer."""

from agent.record import record

SRV, IN = 33, 1
NAME_LIMIT = 255


class SrvError(ValueError):
    """These bytes are not an answer to that question, or the answer is an error; one phrase."""


@record
class Record:
    priority: int
    weight: int
    port: int
    target: str  # without the final dot


_CODES = {1: "the server did not understand the question", 2: "the server failed", 3: "there is no such name",
          5: "the server refuses"}  # fmt: skip


def question(name: str, number: int) -> bytes:
    """A query for the SRV records of `name` with the id `number`. Raises SrvError."""
    out = b""
    for label in name.rstrip(".").split("."):
        raw = label.encode("ascii", "replace")
        if not 0 < len(raw) < 64 or not label.isascii():
            raise SrvError(f"{name!r} is not a host name")
        out += bytes([len(raw)]) + raw
    if len(out) >= NAME_LIMIT:
        raise SrvError(f"{name!r} is too long for a host name")
    flags = 0x0100  # recursion desired
    header = b"".join(n.to_bytes(2, "big") for n in (number, flags, 1, 0, 0, 0))
    return header + out + b"\0" + SRV.to_bytes(2, "big") + IN.to_bytes(2, "big")


def is_answer(message: bytes, asked: bytes) -> bool:
    """Whether it is a response to that query at all; anything else is waited past."""
    end = len(asked)
    same = message[12:end].lower() == asked[12:].lower()
    return len(message) >= end and message[:2] == asked[:2] and bool(message[2] & 0x80) and same


def truncated(message: bytes) -> bool:
    return bool(message[2] & 0x02)


def records(message: bytes, asked: bytes) -> list[Record]:
    """The SRV records of the answer, aliases included. [] if there are none. Raises SrvError."""
    if not is_answer(message, asked):
        raise SrvError("that is not an answer to the question")
    if code := message[3] & 0x0F:
        raise SrvError(_CODES.get(code, f"the server says {code}"))
    found, position = [], len(asked)
    try:
        for _ in range(int.from_bytes(message[6:8], "big")):
            _, position = _name(message, position)
            kind, length = _number(message, position), _number(message, position + 8)
            data = position + 10
            position = data + length
            if position > len(message):
                raise SrvError("the answer is cut off")
            if kind == SRV:
                target, end = _name(message, data + 6)
                if end > position:
                    raise SrvError("a record is longer than it says")
                priority, weight, port = (_number(message, data + offset) for offset in (0, 2, 4))
                if target and port:  # a target of "." says that there is no such service
                    found.append(Record(priority, weight, port, target))
    except IndexError:
        raise SrvError("the answer is cut off") from None
    return found


def _number(message: bytes, position: int) -> int:
    return message[position] << 8 | message[position + 1]


def _name(message: bytes, position: int) -> tuple[str, int]:
    """(name, position behind it); compression pointers may only go back, so they end."""
    labels: list[str] = []
    size, end, limit = 0, -1, position
    while True:
        length = message[position]
        if length >= 0xC0:
            if end < 0:
                end = position + 2
            position = (length & 0x3F) << 8 | message[position + 1]
            if position >= limit:
                raise SrvError("a compressed name does not end")
            limit = position
            continue
        if length > 63:
            raise SrvError("a label of an unknown kind")
        position += 1
        if not length:
            return ".".join(labels), position if end < 0 else end
        if position + length > len(message):
            raise SrvError("the answer is cut off")
        size += length + 1
        if size > NAME_LIMIT:
            raise SrvError("a name is too long")
        labels.append(message[position : position + length].decode("latin-1"))
        position += length
