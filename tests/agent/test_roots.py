import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import pem, roots
from tests.fakes.ca import PEM, Root, strange_version

ROOT, OTHER = Root("root"), Root("other")
STRANGE = strange_version(ROOT)
JUNK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("bad", [JUNK, STRANGE, OTHER.pem[:100] + b"\n"], ids=["junk", "version", "cut"])
def test_what_does_not_parse_is_left_out(bad: bytes) -> None:
    assert [c.public_bytes(PEM) for c in roots.read_roots(bad + ROOT.pem + bad)] == [ROOT.pem]
    assert roots.parse_roots(bad) == ()


def test_bundles_are_sorted_once_each_without_a_final_newline() -> None:
    bundle = b"# comment\n" + ROOT.pem + b"\n" + OTHER.pem + ROOT.pem
    assert roots.merge_roots(bundle, JUNK, OTHER.pem) == b"\n".join(sorted([ROOT.pem.strip(), OTHER.pem.strip()]))
    assert roots.merge_roots(JUNK) == b""


def test_the_encoding_is_canonical() -> None:
    assert roots.merge_roots(ROOT.pem.replace(b"\n", b"\r\n")) == ROOT.pem.strip()


@given(st.lists(st.sampled_from([ROOT.pem, STRANGE, JUNK, ROOT.pem[:90], b"\n", b"junk"]), max_size=6), st.binary())
def test_any_text_has_roots_or_none(pieces: list[bytes], noise: bytes) -> None:
    text = noise.join(pieces)
    assert len(roots.read_roots(text)) <= len(pem.certificates(text))
