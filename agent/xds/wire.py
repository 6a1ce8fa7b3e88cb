"""The envelope of a discovery message: what the proxy must know of a frame that it forwards as it came.

A frame is never re-encoded. Nearly all of its bytes are resources, and nearly all frames have few top-level fields, so
a scan that hops over them finds the envelope in microseconds and copies nothing (50 MB: 3 us against 20 ms). A frame
with many fields, or with anything unusual in it, goes to the protobuf runtime, which alone decides what is malformed.
"""

from enum import Enum
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from agent.protos import xds_pb2
from agent.record import message

TYPE = "type.googleapis.com/"
LISTENER = TYPE + "envoy.config.listener.v3.Listener"
NAME_TABLE = TYPE + "istio.networking.nds.v1.NameTable"
TRUST_BUNDLE = TYPE + "istio.mesh.v1alpha1.ProxyConfig"
HEALTH = TYPE + "istio.v1.HealthInformation"
WORKLOAD = TYPE + "istio.workload.Workload"

# A long frame is a view: it is never copied as a whole.
Frame = bytes | memoryview
M = TypeVar("M", bound=Message)

INTERNAL = 13  # google.rpc.Code of every refusal
SCAN_LIMIT = 1024  # fields; from about here on the protobuf runtime is faster


class EnvelopeError(ValueError):
    """These bytes are not a discovery message. The only error that parsing a frame raises."""


class Flavour(Enum):
    """The two ways of speaking ADS; the value is the gRPC method."""

    SOTW = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


@message
class Head:
    """The envelope. `version` is empty in delta requests; `error` is a refusal's text, None when nothing is refused."""

    type_url: str = ""
    nonce: str = ""
    version: str = ""
    error: str | None = None


# Tags (field number << 3 | 2) of the strings we look at, and what they are.
_REQUEST_TAGS = {
    Flavour.SOTW: {10: "version", 34: "type_url", 42: "nonce", 50: "error"},
    Flavour.DELTA: {18: "type_url", 50: "nonce", 58: "error"},
}
_RESPONSE_TAGS = {10: "version", 34: "type_url", 42: "nonce"}


def request_head(flavour: Flavour, frame: Frame) -> Head:
    """The envelope of a (Delta)DiscoveryRequest. Raises EnvelopeError."""
    found = _scan(frame, _REQUEST_TAGS[flavour])
    if found is None:
        if flavour is Flavour.DELTA:
            delta = _decode(xds_pb2.DeltaRequestHead(), frame)
            detail = delta.error_detail if delta.HasField("error_detail") else None
            return Head(delta.type_url, delta.response_nonce, "", _error_text(detail))
        sotw = _decode(xds_pb2.RequestHead(), frame)
        detail = sotw.error_detail if sotw.HasField("error_detail") else None
        return Head(sotw.type_url, sotw.response_nonce, sotw.version_info, _error_text(detail))
    return _head(found)


def response_head(flavour: Flavour, frame: Frame) -> Head:
    """The envelope of a (Delta)DiscoveryResponse. Raises EnvelopeError."""
    found = _scan(frame, _RESPONSE_TAGS)
    if found is None:
        if flavour is Flavour.DELTA:
            delta = _decode(xds_pb2.DeltaResponseHead(), frame)
            return Head(delta.type_url, delta.nonce, delta.system_version_info)
        sotw = _decode(xds_pb2.ResponseHead(), frame)
        return Head(sotw.type_url, sotw.nonce, sotw.version_info)
    return _head(found)


def first_resource(flavour: Flavour, frame: Frame) -> tuple[str, bytes] | None:
    """(type URL, value) of a response's first resource; None if it has none. Raises EnvelopeError."""
    if flavour is Flavour.DELTA:
        delta = _decode(xds_pb2.DeltaResponse(), frame)
        if not delta.resources:
            return None
        resource = delta.resources[0].resource
    else:
        sotw = _decode(xds_pb2.Response(), frame)
        if not sotw.resources:
            return None
        resource = sotw.resources[0]
    return resource.type_url, resource.value


def trust_bundle(payload: bytes) -> tuple[str, ...]:
    """The PEM texts of a trust bundle (PCDS: a serialized ProxyConfig). Raises ValueError if undecodable."""
    from agent.protos import mesh_pb2  # few meshes send one

    try:
        return tuple(mesh_pb2.ProxyConfig.FromString(payload).ca_certificates_pem)
    except DecodeError as e:
        raise ValueError("the trust bundle cannot be decoded") from e


def subscription(flavour: Flavour, type_url: str) -> bytes:
    """A wildcard subscription of our own: nothing but the type."""
    return refusal(flavour, type_url, None)


def refusal(flavour: Flavour, type_url: str, error: str | None) -> bytes:
    """A request that carries nothing but its type and, unless `error` is None, an error detail."""
    return acknowledgement(flavour, Head(type_url), error)


def acknowledgement(flavour: Flavour, head: Head, error: str | None = None) -> bytes:
    """The ACK of the response with this envelope, or its NACK with the text `error`."""
    detail = None if error is None else xds_pb2.Status(code=INTERNAL, message=error)
    if flavour is Flavour.DELTA:
        return xds_pb2.DeltaRequest(
            type_url=head.type_url, response_nonce=head.nonce, error_detail=detail
        ).SerializeToString()
    return xds_pb2.Request(
        version_info=head.version, type_url=head.type_url, response_nonce=head.nonce, error_detail=detail
    ).SerializeToString()


def _decode(message: M, frame: Frame) -> M:
    try:
        message.ParseFromString(frame)  # type: ignore[arg-type]  # it takes any buffer
    except DecodeError as e:
        raise EnvelopeError("not a discovery message") from e
    return message


def _head(found: dict[str, bytes]) -> Head:
    try:
        return Head(
            found.get("type_url", b"").decode(),
            found.get("nonce", b"").decode(),
            found.get("version", b"").decode(),
            _error_text(found.get("error")),
        )
    except UnicodeDecodeError as e:
        raise EnvelopeError("not a discovery message") from e


def _error_text(detail: bytes | None) -> str | None:
    return None if detail is None else _decode(xds_pb2.Status(), detail).message


def _scan(frame: Frame, wanted: dict[int, str]) -> dict[str, bytes] | None:
    """The wanted top-level strings, the last of each; None if this is a case for the protobuf runtime."""
    found: dict[str, bytes] = {}
    position, end, fields = 0, len(frame), 0
    try:
        while position < end:
            fields += 1
            if fields > SCAN_LIMIT:
                return None
            tag = frame[position]
            position += 1
            if tag > 0x7F:  # field numbers 16 to 2047
                high = frame[position]
                position += 1
                if high > 0x7F:
                    return None
                tag = tag & 0x7F | high << 7
            wire_type = tag & 7
            if tag < 8 or wire_type in (3, 4, 6, 7):
                return None
            if wire_type == 1:
                position += 8
                continue
            if wire_type == 5:
                position += 4
                continue
            value = frame[position]
            position += 1
            if value > 0x7F:
                value &= 0x7F
                for shift in (7, 14, 21, 28):
                    byte = frame[position]
                    position += 1
                    value |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        break
                else:
                    return None
            if wire_type == 0:
                continue
            if name := wanted.get(tag):
                if name in found:  # the earlier one counts for nothing, but must be well-formed all the same
                    return None
                found[name] = bytes(frame[position : position + value])
            position += value
    except IndexError:
        return None
    return found if position == end else None
