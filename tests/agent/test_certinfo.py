import json

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from agent import certinfo, pem
from tests.fakes.ca import Root, new_key

ROOT = Root("root")


def test_facts_of_a_chain() -> None:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier("spiffe://a/b"), x509.DNSName("app")]
    leaf = ROOT.issue(new_key().public_key(), names, ttl=100.0, not_before=-5.0)
    first, second = certinfo.describe(leaf + ROOT.pem)
    assert first["san"] == ["spiffe://a/b", "app"]
    assert (first["subject"], first["issuer"]) == ("", "O=root")
    assert 104 <= first["not_after"] - first["not_before"] <= 106
    assert first["serial"] == f"{x509.load_pem_x509_certificate(leaf).serial_number:x}"
    assert second["sha256"] == ROOT.certificate.fingerprint(hashes.SHA256()).hex()
    assert (second["subject"], second["san"]) == ("O=root", [])


def test_names_of_other_kinds_are_told_with_their_kind() -> None:
    _, leaf = ROOT.server("10.0.0.1")
    assert certinfo.describe(leaf)[0]["san"] == ["IPAddress:10.0.0.1"]


def test_what_cannot_be_read_is_said_and_the_list_is_bounded() -> None:
    bad = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert list(certinfo.describe(bad)[0]) == ["error"]
    assert len(certinfo.describe(bad * 100)) == 32


@given(st.binary(max_size=200))
def test_any_text_gives_json(data: bytes) -> None:
    json.dumps(certinfo.describe(data))
    json.dumps(certinfo.describe(pem.BEGIN + b"\n" + data + pem.END))
