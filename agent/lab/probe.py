"""Looking at pods from outside: HTTP requests from inside a namespace, and what really crosses the wire."""

import http.client
import select
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.lab.net import Namespace

ETH_P_ALL = 3
HANDSHAKE, APPLICATION_DATA = 0x16, 0x17


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request got: `status` 0 and a phrase in `error` when there was no HTTP answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    def __str__(self) -> str:
        return self.error or f"HTTP {self.status}"


def http_request(
    namespace: Namespace, host: str, port: int, target: str = "/", *, method: str = "GET", limit: float = 3.0
) -> Answer:
    """One HTTP request from inside `namespace`, as root; never raises for what the network does."""

    def ask() -> Answer:
        connection = http.client.HTTPConnection(host, port, timeout=limit)
        try:
            connection.request(method, target, headers={"user-agent": "lab-probe"})
            response = connection.getresponse()
            headers = {k.lower(): v for k, v in response.getheaders()}
            return Answer(response.status, response.read(), headers)
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, error=f"{type(error).__name__}: {error}")
        finally:
            connection.close()

    return namespace.call(ask)


def tcp_payload(frame: bytes, ip: str, port: int) -> bytes | None:
    """The TCP payload of an Ethernet frame with IPv4 that goes to or comes from ip:port; None for any other frame."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
        return None
    header = 14 + (frame[14] & 0x0F) * 4
    if len(frame) < header + 20:
        return None
    source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    source_port, target_port = struct.unpack_from("!HH", frame, header)
    if (ip, port) not in ((source, source_port), (target, target_port)):
        return None
    total = 14 + struct.unpack_from("!H", frame, 16)[0]
    start = header + (frame[header + 12] >> 4) * 4
    # A total length of zero is how the kernel marks segments of 64 KiB and more.
    return frame[start : total if total > 14 else len(frame)]


@dataclass(frozen=True, slots=True)
class Wire:
    """What crossed the wire: segments with payload, how many began with a TLS record of each kind, leaked texts."""

    segments: int = 0
    handshakes: int = 0
    application: int = 0
    leaked: tuple[str, ...] = ()


def classify(payloads: Iterable[bytes], forbidden: Iterable[bytes]) -> Wire:
    """Count TLS records and look for texts that must not be readable."""
    segments = handshakes = application = 0
    leaked: dict[str, None] = {}
    texts = list(forbidden)
    for payload in payloads:
        if not payload:
            continue
        segments += 1
        if payload[1:2] == b"\x03":
            handshakes += payload[0] == HANDSHAKE
            application += payload[0] == APPLICATION_DATA
        for text in texts:
            if text in payload:
                leaked[text.decode(errors="replace")] = None
    return Wire(segments, handshakes, application, tuple(leaked))


class Sniffer:
    """Collects the TCP payloads to and from ip:port that cross one bridge port, while the context lasts."""

    def __init__(self, node: Namespace, interface: str, ip: str, port: int) -> None:
        self._node, self._interface, self._peer = node, interface, (ip, port)
        self.payloads: list[bytes] = []

    def __enter__(self) -> "Sniffer":
        def opened() -> socket.socket:
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sniffer.bind((self._interface, 0))
            return sniffer

        self._socket = self._node.call(opened)
        self._wake, self._sleep = socket.socketpair()
        self._thread = threading.Thread(target=self._collect, name="sniffer")
        self._thread.start()
        return self

    def _collect(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket, self._sleep], [], [])
            if self._socket in ready:
                payload = tcp_payload(self._socket.recv(1 << 17), *self._peer)
                if payload:
                    self.payloads.append(payload)
            elif self._sleep in ready:
                return

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for each in (self._socket, self._wake, self._sleep):
            each.close()
