"""The resources of a discovery response as slices of its bytes, and a response made of such slices.

Nothing is decoded that is not looked at, and a slice is the resource exactly as the control plane sent it.
"""

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

from agent.protos import xds_pb2
from agent.record import message
from agent.xds.wire import TYPE, EnvelopeError, Flavour, Frame

WRAPPED = TYPE + "envoy.service.discovery.v3.Resource"  # how a state-of-the-world resource carries a name of its own


@message
class Parts:
    """What a response says: (name, slice) of each resource, the names that are gone, and the version of it all."""

    resources: tuple[tuple[str, bytes], ...]
    removed: tuple[str, ...]
    version: str


@message
class Asked:
    """What a request says. `subscribe` of a state-of-the-world request is its whole list of names."""

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: frozenset[str] = frozenset()  # names of what Envoy holds; delta, first request of a type
    version: str = ""  # what Envoy holds; state of the world
    nonce: str = ""
    refused: bool = False


def asked(flavour: Flavour, frame: bytes) -> Asked:
    """A request of Envoy's. Raises EnvelopeError."""
    try:
        if flavour is Flavour.DELTA:
            delta = xds_pb2.DeltaRequest.FromString(frame)
            return Asked(
                delta.type_url,
                tuple(delta.resource_names_subscribe),
                tuple(delta.resource_names_unsubscribe),
                frozenset(delta.initial_resource_versions),
                "",
                delta.response_nonce,
                delta.HasField("error_detail"),
            )
        sotw = xds_pb2.Request.FromString(frame)
    except DecodeError as e:
        raise EnvelopeError("not a discovery request") from e
    names = tuple(sotw.resource_names)
    refused = sotw.HasField("error_detail")
    return Asked(sotw.type_url, names, (), frozenset(), sotw.version_info, sotw.response_nonce, refused)


def split(flavour: Flavour, frame: Frame) -> Parts:
    """Take a response apart; every resource is copied once. Raises EnvelopeError.

    A state-of-the-world resource is named by its own first field, as all of Envoy's are; one without a name is left
    out, because nobody can ask for it.
    """
    resources: list[tuple[str, bytes]] = []
    removed: list[str] = []
    version = ""
    for number, start, end in _fields(frame, 0, len(frame)):
        if number == 1:
            version = _text(frame, start, end)
        elif number == 2:
            name = _delta_name(frame, start, end) if flavour is Flavour.DELTA else _state_name(frame, start, end)
            if name is not None:
                resources.append((name, bytes(frame[start:end])))
        elif number == 6:
            removed.append(_text(frame, start, end))
    return Parts(tuple(resources), tuple(removed), version)


def response(type_url: str, nonce: str, version: str, resources: Iterable[bytes], removed: Iterable[str] = ()) -> bytes:
    """A response of either flavour: their field numbers are the same, and only delta has `removed`."""
    parts: list[bytes] = []
    _put(parts, 1, version.encode())
    for resource in resources:
        _put(parts, 2, resource, always=True)
    _put(parts, 4, type_url.encode())
    _put(parts, 5, nonce.encode())
    for name in removed:
        _put(parts, 6, name.encode(), always=True)
    return b"".join(parts)


def _put(parts: list[bytes], number: int, value: bytes, always: bool = False) -> None:
    if value or always:
        parts += (bytes((number << 3 | 2,)), _varint(len(value)), value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delta_name(frame: Frame, start: int, end: int) -> str:
    name = ""
    for number, first, last in _fields(frame, start, end):
        if number == 3:
            name = _text(frame, first, last)
    return name


def _state_name(frame: Frame, start: int, end: int) -> str | None:
    """The name inside the Any that lies there."""
    type_url, value = "", (end, end)
    for number, first, last in _fields(frame, start, end):
        if number == 1:
            type_url = _text(frame, first, last)
        elif number == 2:
            value = first, last
    wanted = 3 if type_url == WRAPPED else 1
    name = None
    for number, first, last in _fields(frame, *value):
        if number == wanted:
            name = _text(frame, first, last)
            if wanted == 1:
                break  # it comes first in what is serialised in order, and a cluster has a thousand fields more
    return name


def _text(frame: Frame, start: int, end: int) -> str:
    try:
        return bytes(frame[start:end]).decode()
    except UnicodeDecodeError as e:
        raise EnvelopeError("a name that is not text") from e


def _fields(frame: Frame, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of every length-delimited field there; others are passed over."""
    try:
        while position < end:
            tag, position = _number(frame, position)
            kind = tag & 7
            if kind == 2:
                size, position = _number(frame, position)
                if position + size > end:
                    raise EnvelopeError("a field that is longer than its message")
                yield tag >> 3, position, position + size
                position += size
            elif kind == 0:
                _, position = _number(frame, position)
            elif kind == 1:
                position += 8
            elif kind == 5:
                position += 4
            else:
                raise EnvelopeError("a group, which these messages do not have")
    except IndexError:
        raise EnvelopeError("a message that is cut short") from None
    if position > end:
        raise EnvelopeError("a message that is cut short")


def _number(frame: Frame, position: int) -> tuple[int, int]:
    """(value, position behind it) of a varint."""
    byte = frame[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value, shift = byte & 0x7F, 7
    while True:
        byte = frame[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise EnvelopeError("a number that is too long")
