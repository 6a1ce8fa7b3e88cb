"""What the sniffer makes of frames."""

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from agent.lab.probe import Answer, Wire, classify, tcp_payload

A, B = "10.77.0.11", "10.77.0.12"


def frame(payload: bytes, *, source: tuple[str, int] = (A, 40000), target: tuple[str, int] = (B, 8080)) -> bytes:
    """An Ethernet frame with IPv4 and TCP, padded as short frames are."""
    tcp = struct.pack("!HHIIBBHHH", source[1], target[1], 1, 2, 5 << 4, 0x18, 500, 0, 0) + payload
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, socket.IPPROTO_TCP, 0)
    ip += socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    return (b"\x02" * 12 + b"\x08\x00" + ip + tcp).ljust(60, b"\0")


def test_payloads_of_both_directions_are_found() -> None:
    assert tcp_payload(frame(b"hello"), B, 8080) == b"hello"
    assert tcp_payload(frame(b"hi", source=(B, 8080), target=(A, 40000)), B, 8080) == b"hi"
    assert tcp_payload(frame(b""), B, 8080) == b""


def test_other_traffic_is_left_out() -> None:
    assert tcp_payload(frame(b"x"), B, 8081) is None
    assert tcp_payload(frame(b"x"), A, 8080) is None
    assert tcp_payload(b"\x02" * 12 + b"\x08\x06" + b"\0" * 46, B, 8080) is None


@given(st.binary(max_size=120))
def test_no_frame_is_too_strange(data: bytes) -> None:
    tcp_payload(data, B, 8080)
    tcp_payload(b"\x02" * 12 + b"\x08\x00" + data, B, 8080)


def test_tls_and_plaintext_are_told_apart() -> None:
    wire = classify([b"\x16\x03\x01\x02\x00x", b"\x17\x03\x03\x00\x10y", b"", b"rest of a record"], [b"secret"])
    assert wire == Wire(3, 1, 1, ())
    assert classify([b"GET /?token=abc HTTP/1.1\r\n"], [b"abc", b"HTTP/1.1"]).leaked == ("abc", "HTTP/1.1")


def test_an_answer_says_what_happened() -> None:
    assert str(Answer(503)) == "HTTP 503"
    assert str(Answer(0, error="ConnectionResetError: x")) == "ConnectionResetError: x"
