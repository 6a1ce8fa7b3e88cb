from hypothesis import given
from hypothesis import strategies as st

from agent import pem

BLOCK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
PIECES = st.lists(st.sampled_from([BLOCK, pem.BEGIN, pem.END, b"\n", b"AAAA", b"# comment\n", b"-----BEGIN X-----"]))


def test_blocks_are_cut_without_their_surroundings() -> None:
    assert pem.certificates(b"a comment\n" + BLOCK + b"\n\n" + BLOCK + b"\ntrailer") == [BLOCK, BLOCK]
    assert pem.certificates(b"") == []


def test_a_block_without_an_end_swallows_nothing_of_the_next() -> None:
    assert pem.certificates(pem.BEGIN + b"\nAAAA\n" + BLOCK) == [BLOCK]
    assert pem.certificates(BLOCK + b"\n" + pem.BEGIN) == [BLOCK]


@given(PIECES)
def test_every_block_has_one_beginning_and_one_end(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    blocks = pem.certificates(text)
    for block in blocks:
        assert block.startswith(pem.BEGIN)
        assert block.endswith(pem.END)
        assert block.count(pem.BEGIN) == block.count(pem.END) == 1
    assert len(blocks) <= min(text.count(pem.BEGIN), text.count(pem.END))


def test_hostile_text_costs_linear_time() -> None:
    assert pem.certificates(pem.BEGIN * 200_000) == []
    assert pem.certificates(pem.BEGIN * 200_000 + pem.END) == [pem.BEGIN + pem.END]
