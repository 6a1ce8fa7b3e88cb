"""Certificate requests, and the verification that every answer passes before anybody sees it.

Nothing here reads files or clocks: PEM in, PEM or `Secret` out, `now` in epoch seconds.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import inf

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from agent import pem
from agent.errors import AttemptError
from agent.model import Secret
from agent.roots import UNREADABLE, merge_roots, parse_roots

# No mesh has longer paths; the limit bounds the work that a hostile chain can cause.
MAX_PATH = 8
MAX_SIGNATURE_CHECKS = 64
# Issuers seldom change: what was found out about that many is kept.
ISSUERS = 40


@lru_cache(maxsize=1)
def load_key(key_pem: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """A private key that we made: its primes are not tested again, which would take 30 ms for RSA-2048.

    The last one is kept: the answer of the CA comes for the key of the request. Raises ValueError.
    """
    key = serialization.load_pem_private_key(key_pem, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is neither RSA nor ECDSA")
    return key


def request(key_pem: bytes, identity: str) -> bytes:
    """A certificate request (PEM) with the subject `O=""` and one critical URI name, as istiod compares them.

    Raises ValueError if `identity` is not ASCII.
    """
    key = load_key(key_pem)
    large = isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256
    empty = x509.NameAttribute(
        NameOID.ORGANIZATION_NAME, "", _type=x509.name._ASN1Type.PrintableString, _validate=False
    )
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([empty]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
    )
    return builder.sign(key, hashes.SHA384() if large else hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def join(elements: Iterable[str | bytes]) -> bytes:
    """The elements one after the other, each but the last ended by a newline."""
    encoded = [e.encode() if isinstance(e, str) else e for e in elements]
    return b"".join(e if e.endswith(b"\n") else e + b"\n" for e in encoded[:-1]) + b"".join(encoded[-1:])


def parse_chain(text: bytes) -> list[x509.Certificate]:
    """Every certificate of a PEM text, in order. Raises ValueError if one block does not parse or there is none."""
    try:
        found = [x509.load_pem_x509_certificate(block) for block in pem.certificates(text)]
    except UNREADABLE as e:  # in the library's words, which are about its own insides
        raise ValueError("what stands for a certificate is none") from e
    if not found or len(found) != text.count(pem.BEGIN):
        raise ValueError("a certificate is missing or cut short")
    return found


def verify(elements: Sequence[str], key_pem: bytes, requested: str, now: float) -> Secret:
    """The CA's answer [leaf, intermediates..., roots] as a Secret that is safe to use, else AttemptError.

    A leaf for later is verified as of its first moment: whoever gets it must not use it before `not_before`.
    Reasons: `empty_chain`, `bad_chain`, `wrong_key`, `wrong_identity`, `expired`, `untrusted`.
    """
    if len(elements) < 2:
        sentence = f"the CA answered with {len(elements)} certificates; a leaf and its root are the least"
        raise AttemptError("empty_chain", sentence)
    encoded = [e.encode() for e in elements]
    try:
        # Between leaf and root an empty element is nothing; istio's agent joins it to the rest.
        chain = [
            c for at, element in enumerate(encoded[:-1]) if not at or element.strip() for c in parse_chain(element)
        ]
    except ValueError as e:
        raise AttemptError("bad_chain", f"the CA's answer cannot be parsed: {e}") from e
    roots = parse_roots(encoded[-1])
    if not roots:
        raise AttemptError("bad_chain", "the CA's answer ends with no certificate that could be the root")
    if len(roots) != encoded[-1].count(pem.BEGIN):
        # Envoy would refuse the whole chain for one broken block at its end.
        encoded[-1] = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in roots)
    leaf = chain[0]
    try:
        not_before, not_after = validity = _validity(leaf)
        begins = max(now, not_before)
        if leaf.public_key() != load_key(key_pem).public_key():
            raise AttemptError("wrong_key", "the CA's certificate belongs to another key than the one of the request")
        _check_time(validity, begins, "the CA's certificate")
        identity = leaf_identity(leaf)
        if not identity_matches(requested, identity):
            sentence = f"the CA issued for {identity} instead of {requested}; compare TRUST_DOMAIN, POD_NAMESPACE and "
            raise AttemptError("wrong_identity", f"{sentence}SERVICE_ACCOUNT with what the credential says")
        _check_path(leaf, chain[1:], roots, begins)
    except UNREADABLE as e:
        sentence = f"the CA's certificate has a field that cannot be read ({type(e).__name__})"
        raise AttemptError("bad_chain", sentence) from e
    return Secret(
        chain=join(encoded),
        key=key_pem,
        roots=merge_roots(encoded[-1]),
        identity=identity,
        not_before=not_before,
        not_after=not_after,
        created=now,
        serial=f"{leaf.serial_number:x}",
    )


def flaw(secret: Secret, now: float) -> str:
    """Why others would refuse a certificate in use that has not expired itself, such as an expired issuer; or ""."""
    try:
        chain = parse_chain(secret.chain)
        _check_path(chain[0], chain[1:], parse_roots(secret.roots), now)
    except (AttemptError, *UNREADABLE) as e:
        return str(e)
    return ""


def _validity(certificate: x509.Certificate) -> tuple[float, float]:
    """First and last moment, epoch seconds."""
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def _check_time(validity: tuple[float, float], now: float, what: str) -> None:
    begin, end = validity
    if now >= end:
        raise AttemptError("expired", f"{what} expired at {_stamp(end)}; compare the clocks of this host and the CA")
    if now < begin:
        sentence = f"{what} is valid only from {_stamp(begin)} on; compare the clocks of this host and the CA"
        raise AttemptError("not_yet_valid", sentence)


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def leaf_identity(leaf: x509.Certificate) -> str:
    """The one SPIFFE URI of the certificate. Raises AttemptError(`wrong_identity`) if it has none or several URIs."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise AttemptError(
            "wrong_identity", f"the CA's certificate names {len(uris)} URIs; it must name one SPIFFE URI"
        )
    return uris[0]


def identity_matches(requested: str, issued: str) -> bool:
    """Whether `issued` is what was asked for; an empty part of the request (trust domain, ...) leaves it to the CA."""
    want, have = requested.split("/"), issued.split("/")
    return len(want) == len(have) and all(w in ("", h) for w, h in zip(want, have, strict=True))


def _check_path(
    leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: float
) -> None:
    """Raises AttemptError(`untrusted`) unless signatures lead from the leaf over valid CA certificates to a root."""
    anchors = frozenset(roots)
    by_subject: dict[bytes, list[x509.Certificate]] = {}
    for candidate in dict.fromkeys((*roots, *intermediates)):
        by_subject.setdefault(_subject(candidate), []).append(candidate)
    checks = 0
    seen: set[x509.Certificate] = set()
    level = [leaf]
    problem = "no certificate in it issued the leaf"
    for depth in range(MAX_PATH):
        above = []
        for certificate in level:
            for candidate in by_subject.get(certificate.issuer.public_bytes(), []):
                if candidate in seen:
                    continue
                checks += 1
                if checks > MAX_SIGNATURE_CHECKS:
                    raise AttemptError("untrusted", "the CA's chain has too many certificates of one name to verify")
                if reason := _cannot_issue(certificate, candidate, depth, now):
                    problem = reason
                elif candidate in anchors:
                    return
                else:
                    seen.add(candidate)
                    above.append(candidate)
        level = above
    raise AttemptError("untrusted", f"the CA's certificate does not chain to the root that came with it: {problem}")


@lru_cache(maxsize=ISSUERS)
def _subject(certificate: x509.Certificate) -> bytes:
    return certificate.subject.public_bytes()


@lru_cache(maxsize=ISSUERS)
def _reach(issuer: x509.Certificate) -> float:
    """How many CA certificates may lie between it and a leaf; -1 if it may not issue any certificate."""
    try:
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return -1
    if not basic.ca:
        return -1
    return inf if basic.path_length is None else basic.path_length


def _cannot_issue(certificate: x509.Certificate, issuer: x509.Certificate, depth: int, now: float) -> str:
    """Why `issuer` is no issuer of `certificate`, `depth` CA certificates above the leaf; "" if it is."""
    if _reach(issuer) < depth:
        return "the issuer may not issue certificates"
    try:
        _check_time(_validity(issuer), now, "the issuer")
        certificate.verify_directly_issued_by(issuer)
    except AttemptError as e:
        return str(e)
    except (*UNREADABLE, InvalidSignature):
        return "a signature is wrong"
    return ""
