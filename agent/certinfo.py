"""What people want to know of a certificate, as plain data. No I/O: PEM in, dicts of JSON types out."""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent import pem
from agent.roots import UNREADABLE


def describe(text: bytes, limit: int = 32) -> list[dict[str, Any]]:
    """Each certificate of a PEM text, at most `limit`: subject, san, issuer, serial, sha256, and validity in epoch
    seconds.

    A block that cannot be read is one entry with `error` alone.
    """
    return [_one(block) for block in pem.certificates(text)[:limit]]


def _one(block: bytes) -> dict[str, Any]:
    try:
        certificate = x509.load_pem_x509_certificate(block)
        return {
            "subject": certificate.subject.rfc4514_string(),
            "san": _names(certificate),
            "issuer": certificate.issuer.rfc4514_string(),
            "serial": f"{certificate.serial_number:x}",
            "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            "not_before": certificate.not_valid_before_utc.timestamp(),
            "not_after": certificate.not_valid_after_utc.timestamp(),
        }
    except UNREADABLE as e:
        return {"error": str(e).partition("\n")[0] or type(e).__name__}


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [f"{type(name).__name__}:{name.value}" if not isinstance(name.value, str) else name.value for name in found]
