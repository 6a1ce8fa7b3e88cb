"""The lab's certificate authority as arithmetic: keys and CSRs in, certificates out. Time and serials are arguments."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.errors import ConfigError

ROOT_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=365)
BACKDATE = timedelta(minutes=2)  # as istiod: clocks differ
_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Issued:
    """`chain` is [leaf, root] in PEM; times are UTC."""

    chain: tuple[str, ...]
    serial: str
    not_before: datetime
    not_after: datetime


def moment(now: float) -> datetime:
    """Epoch seconds to UTC, whole seconds: certificates know no smaller unit."""
    return datetime.fromtimestamp(int(now), UTC)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_root(key: ec.EllipticCurvePrivateKey, trust_domain: str, now: float, serial: int) -> bytes:
    """A self-signed root in PEM, valid for ten years."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain)])
    start = moment(now) - BACKDATE
    builder = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=serial)
        .not_valid_before(start)
        .not_valid_after(start + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def parse_csr(pem: str) -> PublicKey:
    """The key of a signing request whose signature holds. Raises ValueError; names in the request do not matter."""
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise ValueError("the signing request is no readable PEM") from None
    if not valid:
        raise ValueError("the signing request is not signed by its own key")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise ValueError(f"an RSA key of {key.key_size} bits is too small: 2048 is the least")
    elif not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        raise ValueError("the signing request holds a key that is neither RSA, EC nor Ed25519")
    return key


class Authority:
    """A root certificate with its key, both PEM. Raises ConfigError when they do not belong together."""

    def __init__(self, key: bytes, root: bytes) -> None:
        check_pair(key, root, None)
        loaded = serialization.load_pem_private_key(key, None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ConfigError("the lab's root key is not an elliptic-curve key")
        self._key = loaded
        self._root = x509.load_pem_x509_certificate(root)
        self.root_pem = self._root.public_bytes(serialization.Encoding.PEM).decode()
        self.not_after = self._root.not_valid_after_utc

    def workload(self, key: PublicKey, identity: str, ttl: float, now: float, serial: int) -> Issued:
        """A leaf for one SPIFFE URI. It never outlives the root."""
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        end = min(moment(now) + timedelta(seconds=int(ttl)), self.not_after)
        return self._leaf(key, x509.Name([]), san, True, end, now, serial)

    def server(self, key: PublicKey, names: Sequence[str], now: float, serial: int) -> Issued:
        """A leaf for a control-plane process; `names` are host names and IP addresses."""
        san = x509.SubjectAlternativeName([_general_name(name) for name in names])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        return self._leaf(key, subject, san, False, min(moment(now) + SERVER_LIFE, self.not_after), now, serial)

    def _leaf(
        self,
        key: PublicKey,
        subject: x509.Name,
        san: x509.SubjectAlternativeName,
        critical: bool,
        end: datetime,
        now: float,
        serial: int,
    ) -> Issued:
        issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        start = moment(now) - BACKDATE
        builder = (
            x509.CertificateBuilder(
                issuer_name=self._root.subject, subject_name=subject, public_key=key, serial_number=serial
            )
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_USAGES), critical=False)
            .add_extension(issuer_key_id, critical=False)
            .add_extension(san, critical=critical)
        )
        leaf = builder.sign(self._key, hashes.SHA256())
        pem = leaf.public_bytes(serialization.Encoding.PEM).decode()
        return Issued((pem, self.root_pem), f"{serial:x}", start, end)


def check_pair(key: bytes, chain: bytes, root: bytes | None) -> None:
    """Raises ConfigError unless the key is the leaf's and, with `root`, the leaf is signed by it."""
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise ConfigError(f"the server certificate is not PEM: {error}") from None
    try:
        public = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"the server key is not an unencrypted PEM key: {error}") from None
    if _der(public) != _der(leaf.public_key()):
        raise ConfigError("the server key does not belong to the server certificate")
    if root is None:
        return
    try:
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificates(root)[0])
    except (ValueError, TypeError, InvalidSignature):
        raise ConfigError("the server certificate is not signed by the given root") from None


def _der(key: object) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form)  # type: ignore[attr-defined,no-any-return]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
