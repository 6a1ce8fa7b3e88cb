import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AttemptError
from agent.identity import certs
from tests.fakes.ca import PEM, Root, key_pem, new_key

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"
ROOT = Root("root")
OTHER = Root("other")
KEY, LEAF = ROOT.workload(SPIFFE)
URI = x509.UniformResourceIdentifier


def text(*pems: bytes) -> list[str]:
    return [p.decode() for p in pems]


def public() -> Any:
    key = serialization.load_pem_private_key(KEY, None)
    return key.public_key()


# ------------------------------------------------------------------------------------------------ the request


@pytest.mark.parametrize(("curve", "digest"), [(ec.SECP256R1(), "sha256"), (ec.SECP384R1(), "sha384")])
def test_request_is_exactly_what_istiod_compares(curve: Any, digest: str) -> None:
    key = key_pem(ec.generate_private_key(curve))
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


def test_an_identity_that_no_certificate_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="URI"):
        certs.request(KEY, "spiffe://ü/ns/a/sa/b")


# ------------------------------------------------------------------------------------------------ joining and roots


@pytest.mark.parametrize(
    ("elements", "joined"),
    [((), b""), (("a",), b"a"), (("a", "b"), b"a\nb"), (("a\n", "b\n"), b"a\nb\n"), (("a", "b\n", "c"), b"a\nb\nc")],
)
def test_join(elements: tuple[str, ...], joined: bytes) -> None:
    assert certs.join(elements) == joined


def test_roots_are_sorted_once_each_without_a_final_newline() -> None:
    bundle = b"# comment\n" + ROOT.pem + b"\n" + OTHER.pem + ROOT.pem
    junk = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert certs.merge_roots(bundle, junk, OTHER.pem) == b"\n".join(sorted([ROOT.pem.strip(), OTHER.pem.strip()]))
    assert certs.merge_roots(junk) == b""


PIECES = st.sampled_from(
    [ROOT.pem, OTHER.pem, LEAF, LEAF[:100], LEAF[50:], b"\n", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n"]
)


@given(st.lists(PIECES, max_size=8), st.binary(max_size=50))
def test_any_text_parses_or_is_refused_politely(pieces: list[bytes], noise: bytes) -> None:
    data = noise.join(pieces)
    roots = certs.parse_roots(data)
    assert len(roots) <= data.count(b"-----BEGIN CERTIFICATE-----")
    try:
        chain = certs.parse_chain(data)
    except ValueError:
        return
    assert chain == list(roots)


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

MID = ROOT.intermediate("mid")
DEEP = MID.intermediate("deep")
NARROW = ROOT.intermediate("narrow", path_length=0).intermediate("below")


def leaf(issuer: Root, *names: str, **options: float) -> bytes:
    return issuer.issue(public(), [URI(n) for n in names], **options)


@pytest.mark.parametrize(
    "elements",
    [
        text(LEAF, ROOT.pem),
        text(leaf(MID, SPIFFE), MID.pem, ROOT.pem),
        text(leaf(DEEP, SPIFFE), DEEP.pem, MID.pem, ROOT.pem),
        text(leaf(DEEP, SPIFFE), MID.pem, DEEP.pem, ROOT.pem),
        text(leaf(MID, SPIFFE) + MID.pem, ROOT.pem),
        text(leaf(MID, SPIFFE), MID.pem),  # the trust ends at an intermediate
        text(LEAF, OTHER.pem, ROOT.pem + OTHER.pem + ROOT.pem),
        text(LEAF.strip(), ROOT.pem.strip()),
    ],
    ids=["plain", "mid", "deep", "any order", "joined", "anchor", "bundle", "no newline"],
)
def test_good_chains(elements: list[str]) -> None:
    now = time.time()
    secret = certs.verify(elements, KEY, SPIFFE, now)
    assert secret.chain == certs.join(elements)
    assert secret.roots == certs.merge_roots(elements[-1].encode())
    assert (secret.identity, secret.key, secret.created) == (SPIFFE, KEY, now)
    assert secret.not_before < now < secret.not_after
    assert "PRIVATE" not in repr(secret)


def test_broken_roots_are_left_out_of_the_chain_too() -> None:
    secret = certs.verify(text(LEAF, ROOT.pem + OTHER.pem[:100]), KEY, SPIFFE, time.time())
    assert secret.chain == LEAF + ROOT.pem
    assert secret.roots == ROOT.pem.strip()


OLD = Root("old", days=-1)
BRIEF = Root("brief", days=1)
NO_CA = ROOT.intermediate("no ca", is_ca=False)
IMPOSTOR = Root("root")  # the same name, another key


@pytest.mark.parametrize(
    ("make", "reason", "phrase"),
    [
        (list, "empty_chain", "0 certificates"),
        (lambda: text(LEAF), "empty_chain", "1 certificates"),
        (lambda: text(b"nonsense", ROOT.pem), "bad_chain", "parsed"),
        (lambda: text(LEAF, LEAF[:200], ROOT.pem), "bad_chain", "parsed"),
        (lambda: text(LEAF, b"nonsense"), "bad_chain", "root"),
        (lambda: text(ROOT.workload(SPIFFE)[1], ROOT.pem), "wrong_key", "another key"),
        (lambda: text(leaf(ROOT, SPIFFE + "x"), ROOT.pem), "wrong_identity", "instead of"),
        (lambda: text(leaf(ROOT, SPIFFE, SPIFFE + "x"), ROOT.pem), "wrong_identity", "2 URIs"),
        (lambda: text(leaf(ROOT, "https://x"), ROOT.pem), "wrong_identity", "one SPIFFE URI"),
        (lambda: text(leaf(ROOT, SPIFFE, ttl=-1.0), ROOT.pem), "expired", "expired at"),
        (lambda: text(leaf(BRIEF, SPIFFE, ttl=86400 * 3.0, not_before=86400 * 2.0), BRIEF.pem), "untrusted", "expired"),
        (lambda: text(LEAF, OTHER.pem), "untrusted", "does not chain"),
        (lambda: text(LEAF, IMPOSTOR.pem), "untrusted", "signature"),
        (lambda: text(leaf(MID, SPIFFE), ROOT.pem), "untrusted", "does not chain"),
        (lambda: text(leaf(OLD, SPIFFE), OLD.pem), "untrusted", "issuer expired"),
        (lambda: text(leaf(NO_CA, SPIFFE), NO_CA.pem, ROOT.pem), "untrusted", "may not issue"),
        (lambda: text(leaf(NARROW, SPIFFE), NARROW.pem, ROOT.pem), "untrusted", "does not chain"),
        (lambda: text(LEAF, LEAF), "untrusted", "does not chain"),
    ],
)
def test_bad_answers(make: Callable[[], list[str]], reason: str, phrase: str) -> None:
    with pytest.raises(AttemptError, match=phrase) as e:
        certs.verify(make(), KEY, SPIFFE, time.time())
    assert e.value.reason == reason


def test_a_certificate_for_later_is_verified_as_of_then() -> None:
    now = time.time()
    secret = certs.verify(text(leaf(ROOT, SPIFFE, not_before=600.0), ROOT.pem), KEY, SPIFFE, now)
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


def test_the_encoding_of_roots_is_canonical() -> None:
    assert certs.parse_roots(ROOT.pem.replace(b"\n", b"\r\n"))[0].public_bytes(PEM) == ROOT.pem
