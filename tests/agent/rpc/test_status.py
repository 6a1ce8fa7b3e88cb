"""Codes, grpc-message and grpc-timeout as gRPC over HTTP/2 writes them down; grpcio is the judge of the mapping."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc.status import (
    Code,
    RpcError,
    decode_message,
    decode_timeout,
    encode_message,
    encode_timeout,
    error_name,
    of_reset,
    of_trailers,
)


def test_codes_are_those_of_grpc() -> None:
    assert {c.name: int(c) for c in Code} == {c.name: c.value[0] for c in grpc.StatusCode}


@pytest.mark.parametrize(
    ("headers", "trailers", "code", "text"),
    [
        ({b":status": b"200"}, {b"grpc-status": b"0"}, Code.OK, ""),
        ({b":status": b"200"}, {b"grpc-status": b"00"}, Code.OK, ""),
        ({b":status": b"200"}, {b"grpc-status": b"16", b"grpc-message": b"who%20are you"}, Code.UNAUTHENTICATED, "who"),
        ({b":status": b"200"}, {b"grpc-status": b"17"}, Code.UNKNOWN, ""),
        ({b":status": b"200"}, {b"grpc-status": b"0,0"}, Code.UNKNOWN, ""),
        ({b":status": b"200"}, {b"grpc-status": b"-1"}, Code.UNKNOWN, ""),
        ({b":status": b"200"}, {b"grpc-status": b""}, Code.UNKNOWN, ""),
        ({b":status": b"200"}, {b"grpc-status": "١".encode()}, Code.UNKNOWN, ""),
        ({b":status": b"200"}, {b"grpc-status": b"9" * 5000}, Code.UNKNOWN, ""),
        ({b":status": b"200"}, {}, Code.UNKNOWN, "without a status"),
        ({b":status": b"503"}, {b"grpc-status": b"7"}, Code.PERMISSION_DENIED, ""),
        ({}, {}, Code.UNKNOWN, "no number"),
        ({b":status": b"abc"}, {}, Code.UNKNOWN, "no number"),
        ({b":status": b"9" * 5000}, {}, Code.UNKNOWN, "no number"),
    ],
)
def test_status_of_trailers(headers: dict[bytes, bytes], trailers: dict[bytes, bytes], code: Code, text: str) -> None:
    found, message = of_trailers(headers, trailers)
    assert found is code
    assert text in message


@pytest.mark.parametrize(
    ("http", "code"),
    [
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
        (504, Code.UNAVAILABLE),
        (204, Code.UNKNOWN),
        (302, Code.UNKNOWN),
        (500, Code.UNKNOWN),
    ],
)
def test_http_status_without_grpc_status(http: int, code: Code) -> None:
    headers = {b":status": str(http).encode()}
    found, message = of_trailers(headers, headers)
    assert found is code
    assert str(http) in message


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (0, Code.INTERNAL, "NO_ERROR"),
        (1, Code.INTERNAL, "PROTOCOL_ERROR"),
        (2, Code.INTERNAL, "INTERNAL_ERROR"),
        (3, Code.INTERNAL, "FLOW_CONTROL_ERROR"),
        (4, Code.INTERNAL, "SETTINGS_TIMEOUT"),
        (6, Code.INTERNAL, "FRAME_SIZE_ERROR"),
        (7, Code.UNAVAILABLE, "REFUSED_STREAM"),
        (8, Code.CANCELLED, "CANCEL"),
        (9, Code.INTERNAL, "COMPRESSION_ERROR"),
        (10, Code.INTERNAL, "CONNECT_ERROR"),
        (11, Code.RESOURCE_EXHAUSTED, "ENHANCE_YOUR_CALM"),
        (12, Code.PERMISSION_DENIED, "INADEQUATE_SECURITY"),
        (13, Code.INTERNAL, "HTTP_1_1_REQUIRED"),
        (14, Code.INTERNAL, "0xe"),
        (0xFFFFFFFF, Code.INTERNAL, "0xffffffff"),
    ],
)
def test_status_of_a_reset(error: int, code: Code, name: str) -> None:
    found, text = of_reset(error)
    assert found is code
    assert text.endswith(name)
    assert error_name(error) == name


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("", b""),
        ("plain words, 'quotes' & ~tilde", b"plain words, 'quotes' & ~tilde"),
        ("100%", b"100%25"),
        ("grüß", b"gr%C3%BC%C3%9F"),
        ("two\nlines", b"two%0Alines"),
        ("\x7f\x00", b"%7F%00"),
        ("  within blanks \n", b"within blanks"),  # HTTP/2 allows none around a value
        ("lone \ud800 half", b"lone ? half"),
        ("😀", b"%F0%9F%98%80"),
    ],
)
def test_message_is_percent_encoded(text: str, raw: bytes) -> None:
    assert encode_message(text) == raw


@pytest.mark.parametrize(
    ("limit", "raw"), [(9, b"aaa%C3%BCbbb "[:-1]), (8, b"aaa%C3%BCbbb"), (7, b"aaa%C3%BCbb"), (4, b"aaa"), (0, b"")]
)
def test_message_is_cut_between_characters(limit: int, raw: bytes) -> None:
    assert encode_message("aaaübbb", limit) == raw


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a%20b", "a b"),
        (b"100%", "100%"),
        (b"%zz%4", "%zz%4"),
        (b"%ff", "\ufffd"),
        (b"\xc3\xbc", "ü"),
        (b"%E2%82", "\ufffd"),
    ],
)
def test_message_that_is_not_valid_is_kept(raw: bytes, text: str) -> None:
    assert decode_message(raw) == text


@given(st.text())
def test_message_round_trip(text: str) -> None:
    raw = encode_message(text)
    assert all(0x20 <= c < 0x7F for c in raw)
    assert raw == raw.strip()
    assert decode_message(raw) == text.strip().encode("utf-8", "replace").decode()


@given(st.binary())
def test_any_message_decodes(raw: bytes) -> None:
    assert isinstance(decode_message(raw), str)


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"5m", 0.005),
        (b"7u", 7e-6),
        (b"9n", 9e-9),
        (b"0S", 0),
        (b"99999999S", 99999999),
    ],
)
def test_timeouts(raw: bytes, seconds: float) -> None:
    assert decode_timeout(raw) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "raw", [b"", b"S", b"1", b"1s", b"-1S", b"+1S", b" 1S", b"1.5S", b"123456789S", b"1\xffS", b"1SS", b"\xb2S"]
)
def test_bad_timeouts(raw: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        decode_timeout(raw)


@given(st.floats(0, 1e9))
def test_timeout_is_never_longer_than_asked_for(seconds: float) -> None:
    raw = encode_timeout(seconds)
    assert 2 <= len(raw) <= 9
    told = decode_timeout(raw)
    assert told <= max(seconds, 1e-9) * (1 + 1e-9)
    assert told >= min(seconds * 0.999, 99999999) - 1e-9


def test_an_error_says_its_code_and_message() -> None:
    assert str(RpcError(Code.NOT_FOUND, "no such thing")) == "NOT_FOUND: no such thing"
    assert str(RpcError(Code.NOT_FOUND)) == "NOT_FOUND"
