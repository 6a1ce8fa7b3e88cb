"""Bundles of trusted certificates: what of a PEM text can be read, and several texts as one. Pure: PEM in, PEM out."""

from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from agent import pem

# What cryptography raises for certificates that it cannot read, partly only when a field is looked at.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
# Roots seldom change: what was found out about that many bundles is kept.
BUNDLES = 4


def read_roots(text: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM bundle that parse; the others are left out."""
    found = []
    for block in pem.certificates(text):
        try:
            found.append(x509.load_pem_x509_certificate(block))
        except UNREADABLE:
            continue
    return tuple(found)


@lru_cache(maxsize=BUNDLES)
def parse_roots(text: bytes) -> tuple[x509.Certificate, ...]:
    """`read_roots`, remembered."""
    return read_roots(text)


@lru_cache(maxsize=BUNDLES)
def merge_roots(*bundles: bytes) -> bytes:
    """One bundle of all parsable certificates: each once, sorted as text, joined by newlines, none at the end."""
    blocks = {c.public_bytes(serialization.Encoding.PEM).strip() for bundle in bundles for c in parse_roots(bundle)}
    return b"\n".join(sorted(blocks))
