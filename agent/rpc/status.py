"""gRPC's status codes, and how HTTP/2 says them (gRPC over HTTP/2, "Responses" and "Errors")."""

from collections.abc import Mapping
from enum import IntEnum


class Code(IntEnum):
    """google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call ended with a status that is not OK. `heard`: the other end spoke HTTP/2; it was reached."""

    def __init__(self, code: Code, message: str = "", heard: bool = True) -> None:
        super().__init__(f"{code.name}: {message}" if message else code.name)
        self.code, self.message, self.heard = code, message, heard


class Gone(RpcError):
    """The client of a call that we serve has left: nothing can be read or written any more."""

    def __init__(self, message: str = "the client has left") -> None:
        super().__init__(Code.CANCELLED, message)


# RFC 9113 section 7: names of the HTTP/2 error codes.
ERRORS = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
_RESETS = {
    7: Code.UNAVAILABLE,
    8: Code.CANCELLED,
    11: Code.RESOURCE_EXHAUSTED,
    12: Code.PERMISSION_DENIED,
}
_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
# What may stay as it is in `grpc-message`: printable ASCII but the percent sign.
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def error_name(error: int) -> str:
    """The name of an HTTP/2 error code."""
    return ERRORS[error] if error < len(ERRORS) else f"0x{error:x}"


def of_reset(error: int) -> tuple[Code, str]:
    """The status of a call that ended with RST_STREAM."""
    return _RESETS.get(error, Code.INTERNAL), f"stream terminated by RST_STREAM with error code: {error_name(error)}"


def of_trailers(headers: Mapping[bytes, bytes], trailers: Mapping[bytes, bytes]) -> tuple[Code, str]:
    """The status that a server's headers and trailers tell (the same mapping twice, if there was only one block)."""
    raw = trailers.get(b"grpc-status")
    if raw is None:
        http = headers.get(b":status", b"")
        if http == b"200":
            return Code.UNKNOWN, "the server ended the call without a status"
        number = int(http) if http.isdigit() and len(http) == 3 else 0
        return _HTTP.get(number, Code.UNKNOWN), f"the server answered with HTTP status {number or 'that is no number'}"
    number = int(raw) if raw.isdigit() and len(raw) <= 2 else 2
    code = Code(number) if number <= 16 else Code.UNKNOWN
    return code, decode_message(trailers.get(b"grpc-message", b""))


def encode_message(text: str, limit: int = 1 << 20) -> bytes:
    """`grpc-message`: UTF-8, no more than `limit` bytes of it, percent-encoded. HTTP/2 allows no blanks around it."""
    raw = text.strip().encode("utf-8", "replace")
    if len(raw) > limit:
        raw = raw[:limit].decode("utf-8", "ignore").rstrip().encode()
    from urllib.parse import quote_from_bytes  # when it is needed: Envoy's first stream does not wait for it

    return quote_from_bytes(raw, safe=_PLAIN).encode()


def decode_message(raw: bytes) -> str:
    """What a peer means by `grpc-message`; what is not valid is kept as it is."""
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(raw).decode("utf-8", "replace")


def encode_timeout(seconds: float) -> bytes:
    """`grpc-timeout`: at most eight digits and a unit, never longer than asked for."""
    for unit, scale in (("n", 1e9), ("u", 1e6), ("m", 1e3), ("S", 1.0)):
        if (value := int(seconds * scale)) < 100_000_000:
            return b"%d%s" % (max(value, 1), unit.encode())
    return b"99999999S"


def decode_timeout(raw: bytes) -> float:
    """Seconds. Raises ValueError."""
    digits, unit = raw[:-1], raw[-1:].decode("latin-1")
    if unit not in _UNITS or not digits.isdigit() or len(digits) > 8:
        raise ValueError("grpc-timeout must be up to eight digits and a unit")
    return int(digits) * _UNITS[unit]
