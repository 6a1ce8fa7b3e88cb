import itertools
import time
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from agent import roots
from agent.errors import AttemptError
from agent.identity import certs
from agent.record import replace
from tests.fakes.ca import PEM, Key, Root, key_pem, new_key

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"
URI = x509.UniformResourceIdentifier


class Issuers:
    """A root with intermediates, others that are wrong in some way, and a leaf of the root."""

    def __init__(self, make_key: Callable[[], Key], key: Key) -> None:
        self.public, self.key = key.public_key(), key_pem(key)
        self.root = Root("root", key=make_key())
        self.impostor = Root("root", key=make_key())  # the same name, another key
        self.other = Root("other", key=make_key())
        self.mid = self.root.intermediate("mid", key=make_key())
        self.deep = self.mid.intermediate("deep")
        self.narrow = self.root.intermediate("narrow", path_length=0).intermediate("below")
        self.old, self.brief = Root("old", days=-1, key=self.root.key), Root("brief", days=1, key=self.root.key)
        self.no_ca = self.root.intermediate("no ca", is_ca=False)
        self.plain = self.leaf(self.root, SPIFFE)

    def leaf(self, issuer: Root, *names: str, **options: float) -> bytes:
        return issuer.issue(self.public, [URI(n) for n in names], **options)


RSA = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)]
RSA_TURNS = itertools.cycle(RSA[:2])
ISSUERS = {
    "P-256": Issuers(new_key, new_key()),
    "RSA": Issuers(lambda: next(RSA_TURNS), RSA[2]),  # as istio's own root
    "P-384": Issuers(lambda: ec.generate_private_key(ec.SECP384R1()), RSA[2]),
}
ROOT, OTHER = ISSUERS["P-256"].root, ISSUERS["P-256"].other
KEY, LEAF = ISSUERS["P-256"].key, ISSUERS["P-256"].plain


def text(*pems: bytes) -> list[str]:
    return [p.decode() for p in pems]


# ------------------------------------------------------------------------------------------------ the request


def pkcs8(key: Key) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("key", "begin", "digest"),
    [
        (key_pem(new_key()), b"EC PRIVATE KEY", "sha256"),
        (key_pem(ec.generate_private_key(ec.SECP384R1())), b"EC PRIVATE KEY", "sha384"),
        (pkcs8(ec.generate_private_key(ec.SECP384R1())), b"PRIVATE KEY", "sha384"),
        (key_pem(RSA[0]), b"RSA PRIVATE KEY", "sha256"),
        (pkcs8(RSA[0]), b"PRIVATE KEY", "sha256"),
    ],
    ids=["P-256 SEC1", "P-384 SEC1", "P-384 PKCS#8", "RSA PKCS#1", "RSA PKCS#8"],
)
def test_request_is_exactly_what_istiod_compares(key: bytes, begin: bytes, digest: str) -> None:
    assert key.startswith(b"-----BEGIN " + begin)
    pem = certs.request(key, SPIFFE)
    assert pem.startswith(b"-----BEGIN CERTIFICATE REQUEST-----\n")
    csr = x509.load_pem_x509_csr(pem)
    assert csr.subject.public_bytes().hex() == "300b31093007060355040a1300"
    (san,) = csr.extensions
    assert san.critical
    assert list(san.value) == [URI(SPIFFE)]
    assert csr.signature_hash_algorithm is not None
    assert csr.signature_hash_algorithm.name == digest
    assert csr.is_signature_valid
    assert csr.public_key() == serialization.load_pem_private_key(key, None).public_key()


def test_an_identity_that_no_certificate_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="URI"):
        certs.request(KEY, "spiffe://ü/ns/a/sa/b")


# ------------------------------------------------------------------------------------------------ joining and parsing


@pytest.mark.parametrize(
    ("elements", "joined"),
    [((), b""), (("a",), b"a"), (("a", "b"), b"a\nb"), (("a\n", "b\n"), b"a\nb\n"), (("a", "b\n", "c"), b"a\nb\nc")],
)
def test_join(elements: tuple[str, ...], joined: bytes) -> None:
    assert certs.join(elements) == joined


PIECES = st.sampled_from(
    [ROOT.pem, OTHER.pem, LEAF, LEAF[:100], LEAF[50:], b"\n", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]
)


@given(st.lists(PIECES, max_size=8), st.binary(max_size=50))
def test_any_text_parses_or_is_refused_politely(pieces: list[bytes], noise: bytes) -> None:
    data = noise.join(pieces)
    found = roots.read_roots(data)
    assert len(found) <= data.count(b"-----BEGIN CERTIFICATE-----")
    try:
        chain = certs.parse_chain(data)
    except ValueError:
        return
    assert chain == list(found)


@given(st.lists(PIECES, max_size=5), st.lists(PIECES, max_size=5))
def test_any_answer_is_verified_or_a_failed_attempt(first: list[bytes], last: list[bytes]) -> None:
    elements = text(b"".join(first), b"".join(last))
    try:
        secret = certs.verify(elements, KEY, SPIFFE, time.time())
    except AttemptError:
        return
    assert certs.parse_chain(secret.chain)[0] == x509.load_pem_x509_certificate(LEAF)
    assert ROOT.pem.strip() in secret.roots


@given(st.lists(st.text(max_size=30), max_size=4))
def test_nonsense_is_a_failed_attempt(elements: list[str]) -> None:
    with pytest.raises(AttemptError):
        certs.verify(elements, KEY, SPIFFE, 0.0)


# ------------------------------------------------------------------------------------------------ verification


@pytest.mark.parametrize(
    "make",
    [
        lambda i: text(i.plain, i.root.pem),
        lambda i: text(i.leaf(i.mid, SPIFFE), i.mid.pem, i.root.pem),
        lambda i: text(i.leaf(i.deep, SPIFFE), i.deep.pem, i.mid.pem, i.root.pem),
        lambda i: text(i.leaf(i.deep, SPIFFE), i.mid.pem, i.deep.pem, i.root.pem),
        lambda i: text(i.leaf(i.mid, SPIFFE) + i.mid.pem, i.root.pem),
        lambda i: text(i.leaf(i.mid, SPIFFE), i.mid.pem),  # the trust ends at an intermediate
        lambda i: text(i.plain, i.other.pem, i.root.pem + i.other.pem + i.root.pem),
        lambda i: text(i.plain.strip(), i.root.pem.strip()),
    ],
    ids=["plain", "mid", "deep", "any order", "joined", "anchor", "bundle", "no newline"],
)
@pytest.mark.parametrize("i", ISSUERS.values(), ids=ISSUERS)
def test_good_chains(make: Callable[[Issuers], list[str]], i: Issuers) -> None:
    now, elements = time.time(), make(i)
    secret = certs.verify(elements, i.key, SPIFFE, now)
    assert secret.chain == certs.join(elements)
    assert secret.roots == roots.merge_roots(elements[-1].encode())
    assert (secret.identity, secret.key, secret.created) == (SPIFFE, i.key, now)
    assert secret.not_before < now < secret.not_after
    assert "PRIVATE" not in repr(secret)


def test_broken_roots_are_left_out_of_the_chain_too() -> None:
    secret = certs.verify(text(LEAF, ROOT.pem + OTHER.pem[:100]), KEY, SPIFFE, time.time())
    assert secret.chain == LEAF + ROOT.pem
    assert secret.roots == ROOT.pem.strip()


@pytest.mark.parametrize(
    ("make", "reason", "phrase"),
    [
        (lambda i: [], "empty_chain", "0 certificates"),
        (lambda i: text(i.plain), "empty_chain", "1 certificates"),
        (lambda i: text(b"nonsense", i.root.pem), "bad_chain", "parsed"),
        (lambda i: text(i.plain, i.plain[:200], i.root.pem), "bad_chain", "parsed"),
        (lambda i: text(i.plain, b"nonsense"), "bad_chain", "root"),
        (lambda i: text(i.root.workload(SPIFFE)[1], i.root.pem), "wrong_key", "another key"),
        (lambda i: text(i.leaf(i.root, SPIFFE + "x"), i.root.pem), "wrong_identity", "instead of"),
        (lambda i: text(i.leaf(i.root, SPIFFE, SPIFFE + "x"), i.root.pem), "wrong_identity", "2 URIs"),
        (lambda i: text(i.leaf(i.root, "https://x"), i.root.pem), "wrong_identity", "one SPIFFE URI"),
        (lambda i: text(i.leaf(i.root, SPIFFE, ttl=-1.0), i.root.pem), "expired", "expired at"),
        (
            lambda i: text(i.leaf(i.brief, SPIFFE, ttl=86400 * 3.0, not_before=86400 * 2.0), i.brief.pem),
            "untrusted",
            "expired",
        ),
        (lambda i: text(i.plain, i.other.pem), "untrusted", "does not chain"),
        (lambda i: text(i.plain, i.impostor.pem), "untrusted", "signature"),
        (lambda i: text(i.leaf(i.mid, SPIFFE), i.root.pem), "untrusted", "does not chain"),
        (lambda i: text(i.leaf(i.old, SPIFFE), i.old.pem), "untrusted", "issuer expired"),
        (lambda i: text(i.leaf(i.no_ca, SPIFFE), i.no_ca.pem, i.root.pem), "untrusted", "may not issue"),
        (lambda i: text(i.leaf(i.narrow, SPIFFE), i.narrow.pem, i.root.pem), "untrusted", "does not chain"),
        (lambda i: text(i.plain, i.plain), "untrusted", "does not chain"),
    ],
)
@pytest.mark.parametrize("i", ISSUERS.values(), ids=ISSUERS)
def test_bad_answers(make: Callable[[Issuers], list[str]], reason: str, phrase: str, i: Issuers) -> None:
    with pytest.raises(AttemptError, match=phrase) as e:
        certs.verify(make(i), i.key, SPIFFE, time.time())
    assert e.value.reason == reason


def test_a_certificate_for_later_is_verified_as_of_then() -> None:
    now = time.time()
    secret = certs.verify(text(ISSUERS["P-256"].leaf(ROOT, SPIFFE, not_before=600.0), ROOT.pem), KEY, SPIFFE, now)
    assert now + 590 < secret.not_before < now + 610


def test_a_maze_of_issuers_costs_bounded_work() -> None:
    maze = b"".join(Root("root").pem for _ in range(certs.MAX_SIGNATURE_CHECKS + 5))
    with pytest.raises(AttemptError, match="too many") as e:
        certs.verify(text(LEAF, maze, OTHER.pem), KEY, SPIFFE, time.time())
    assert e.value.reason == "untrusted"


def test_a_certificate_without_names_is_another_identity() -> None:
    bare = ROOT.issue(new_key().public_key(), [x509.DNSName("app")])
    with pytest.raises(AttemptError, match="0 URIs"):
        certs.leaf_identity(x509.load_pem_x509_certificate(bare))


@pytest.mark.parametrize(
    ("requested", "issued", "same"),
    [
        (SPIFFE, SPIFFE, True),
        (SPIFFE, "spiffe://other/ns/demo/sa/app", False),
        (SPIFFE, SPIFFE + "/x", False),
        ("spiffe:///ns/demo/sa/app", "spiffe://td/ns/demo/sa/app", True),
        ("spiffe:///ns/demo/sa/app", "spiffe://td/ns/demo/sa/b", False),
        ("spiffe:///ns//sa/", "spiffe://td/ns/a/sa/b", True),
        ("spiffe://td/ns//sa/", "spiffe://other/ns/a/sa/b", False),
        ("spiffe:///ns/demo/sa/app", "spiffe://td/x/demo/sa/app", False),
    ],
)
def test_identity_matches(requested: str, issued: str, same: bool) -> None:
    assert certs.identity_matches(requested, issued) is same


def test_an_issuer_that_ends_first_is_a_flaw_of_the_certificate_in_use() -> None:
    now, root = time.time(), Root()
    issuer = root.intermediate("issuing", days=0.5)
    key, leaf = issuer.workload(SPIFFE, ttl=86400.0)
    secret = certs.verify([leaf.decode(), issuer.pem.decode(), root.pem.decode()], key, SPIFFE, now)
    assert certs.flaw(secret, now) == ""
    assert "the issuer expired at" in certs.flaw(secret, now + 50_000)
    assert "does not chain" in certs.flaw(replace(secret, roots=Root("other").pem), now)
    assert "cut short" in certs.flaw(replace(secret, chain=secret.chain[:100]), now)
