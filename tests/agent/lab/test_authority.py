"""Certificates that the lab's authority signs, and what it refuses to sign."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.lab.authority import Authority, check_pair, key_pem, make_root, parse_csr

NOW = 1_800_000_000.0
KEY = ec.generate_private_key(ec.SECP256R1())
ROOT = make_root(KEY, "cluster.local", NOW, 1)
AUTHORITY = Authority(key_pem(KEY), ROOT)
IDENTITY = "spiffe://cluster.local/ns/demo/sa/a"


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_workload_certificates() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    issued = AUTHORITY.workload(parse_csr(csr(key)), IDENTITY, 3600.0, NOW, 0xABC)
    leaf, root = (x509.load_pem_x509_certificate(pem.encode()) for pem in issued.chain)
    leaf.verify_directly_issued_by(root)
    assert root.public_bytes(serialization.Encoding.PEM) == ROOT
    assert leaf.public_key() == key.public_key()
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]
    assert leaf.not_valid_before_utc.timestamp() == NOW - 120
    assert leaf.not_valid_after_utc.timestamp() == NOW + 3600
    assert issued.serial == "abc"
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_nothing_outlives_the_root() -> None:
    issued = AUTHORITY.workload(KEY.public_key(), IDENTITY, 1e9, NOW, 2)
    assert issued.not_after == AUTHORITY.not_after


def test_server_certificates() -> None:
    issued = AUTHORITY.server(KEY.public_key(), ["istiod.istio-system.svc", "10.77.0.1", "fd77::1"], NOW, 3)
    leaf = x509.load_pem_x509_certificate(issued.chain[0].encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == ["istiod.istio-system.svc"]
    assert [str(ip) for ip in san.get_values_for_type(x509.IPAddress)] == ["10.77.0.1", "fd77::1"]


def test_small_keys_are_refused() -> None:
    small = rsa.generate_private_key(65537, 1024)
    with pytest.raises(ValueError, match="1024 bits is too small"):
        parse_csr(csr(small))


def test_a_forged_request_is_refused() -> None:
    one = x509.load_pem_x509_csr(csr(KEY).encode()).public_bytes(serialization.Encoding.DER)
    forged = one[:-1] + bytes([one[-1] ^ 1])
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(ValueError, match="not signed by its own key"):
        parse_csr(pem)


@given(
    st.text(max_size=100) | st.binary(max_size=100).map(lambda raw: f"-----BEGIN CERTIFICATE REQUEST-----\n{raw.hex()}")
)
def test_garbage_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="signing request"):
        parse_csr(text)


def test_pairs_are_checked() -> None:
    other = key_pem(ec.generate_private_key(ec.SECP256R1()))
    leaf = AUTHORITY.server(KEY.public_key(), ["x"], NOW, 4).chain[0].encode()
    check_pair(key_pem(KEY), leaf, ROOT)
    stranger = make_root(ec.generate_private_key(ec.SECP256R1()), "cluster.local", NOW, 5)
    for key, chain, root, said in (
        (other, leaf, None, "does not belong"),
        (key_pem(KEY), b"x", None, "certificate is not PEM"),
        (b"x", leaf, None, "not an unencrypted PEM key"),
        (key_pem(KEY), leaf, stranger, "not signed by the given root"),
        (key_pem(KEY), leaf, b"x", "not signed by the given root"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_pair(key, chain, root)
