"""A CA on its bad days: answers that must not be used, and no answers."""

import base64
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.fakes.ca import Answer, Call, FakeCa, Root
from tests.fakes.workload import spiffe

SPIFFE = spiffe("app")
HUGE = 10_000_000
SLOW = 0.6  # seconds until the slow CA answers; the test asks for less patience


def issue(ca: FakeCa, call: Call, uri: str = SPIFFE, ttl: float = 3600.0, not_before: float = -10.0) -> str:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName("app")]
    return ca.root.issue(call.csr.public_key(), names, ttl, not_before).decode()


def other_leaf(ca: FakeCa, call: Call) -> list[str]:
    return [ca.root.workload(SPIFFE)[1].decode(), ca.root.pem.decode()]


def distinct(size: int) -> str:
    """About `size` bytes of certificates that are named as the issuer of a leaf, no two of them alike."""
    root = Root()
    der = root.certificate.public_bytes(serialization.Encoding.DER)
    serial = der.index(root.certificate.serial_number.to_bytes(20, "big")[4:])
    blocks: list[bytes] = []
    while len(blocks) * len(root.pem) < size:
        der = der[:serial] + len(blocks).to_bytes(4, "big") + der[serial + 4 :]
        blocks.append(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n")
    return b"".join(blocks).decode()


def slow(ca: FakeCa, call: Call) -> list[str]:
    time.sleep(SLOW)
    return FakeCa.sign(ca, call)


# What the CA answers, and a pattern of what the sentence says.
BAD: dict[str, tuple[Answer, str]] = {
    "empty": (lambda ca, call: [], "0 certificates"),
    "leaf only": (lambda ca, call: FakeCa.sign(ca, call)[:1], "1 certificates"),
    "nonsense": (lambda ca, call: ["nonsense", "nonsense"], "parsed"),
    "half a leaf": (lambda ca, call: [FakeCa.sign(ca, call)[0][:-60], ca.root.pem.decode()], "parsed"),
    "no certificate in the block": (
        lambda ca, call: ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ca.root.pem.decode()],
        "parsed",
    ),
    "no root": (lambda ca, call: [FakeCa.sign(ca, call)[0], "nothing"], "root"),
    "other key": (other_leaf, "another key"),
    "other identity": (
        lambda ca, call: [issue(ca, call, SPIFFE + "2"), ca.root.pem.decode()],
        "app2 instead of.*compare TRUST_DOMAIN",
    ),
    "no identity": (lambda ca, call: [issue(ca, call, ""), ca.root.pem.decode()], "one SPIFFE URI"),
    "expired": (lambda ca, call: [issue(ca, call, ttl=-5.0), ca.root.pem.decode()], "expired at.*compare the clocks"),
    "future": (
        lambda ca, call: [issue(ca, call, not_before=600.0), ca.root.pem.decode()],
        "valid only from.*compare the clocks",
    ),
    "other root": (lambda ca, call: [FakeCa.sign(ca, call)[0], Root("other").pem.decode()], "does not chain"),
}
# Answers that cost more, or that never come; only `broken` brings all of them about.
WORSE: dict[str, tuple[Answer, str]] = {
    "undecodable": (lambda ca, call: b"\xff\xff\xff\xff", "cannot be decoded"),
    "undecodable text": (lambda ca, call: b"\x0a\x04\xff\xfe\xfd\xfc", "cannot be decoded"),
    "10 MB of junk": (lambda ca, call: ["x" * HUGE, ca.root.pem.decode()], "parsed"),
    "10 MB of beginnings": (
        lambda ca, call: ["-----BEGIN CERTIFICATE-----\n" * (HUGE // 28), ca.root.pem.decode()],
        "parsed",
    ),
    "10 MB of certificates": (
        lambda ca, call: [FakeCa.sign(ca, call)[0], distinct(HUGE), Root("other").pem.decode()],
        "too many certificates of one name",
    ),
    "slow": (slow, "did not answer within"),
    "hang": (FakeCa.sign, "did not answer within"),
    "reset": (FakeCa.sign, "cannot reach the CA"),
}


@contextmanager
def broken(ca: FakeCa, name: str) -> Iterator[None]:
    """The CA is bad in the way of that name, and honest afterwards, on the same port."""
    if name == "reset":
        ca.stop()
        with raw_listener("reset", ca.port) as listener:
            yield
            listener.shutdown(socket.SHUT_RDWR)
        ca.start()
    elif name == "hang":
        ca.hang()
        yield
    else:
        ca.answer = {**BAD, **WORSE}[name][0]
        yield
    ca.heal()


def raw_listener(behaviour: str, port: int = 0) -> socket.socket:
    """A port that resets, closes, or accepts and stays silent, until it is shut down."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        with contextlib.suppress(OSError):
            kept = []
            while True:
                connection, _ = listener.accept()
                if behaviour == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if behaviour == "silent":
                    kept.append(connection)
                else:
                    connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener
