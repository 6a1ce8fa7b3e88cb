import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import pem

BLOCK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"
SEC1 = KEY.replace(b"PRIVATE", b"EC PRIVATE")
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


@pytest.mark.parametrize(
    ("text", "block"),
    [
        (b"", None),
        (KEY, KEY),
        (b"-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----\n" + SEC1 + KEY, SEC1),
        (BLOCK + b"\n" + KEY + SEC1, KEY),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n" + SEC1, SEC1),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n" + KEY, KEY),
        (KEY[:-1], None),
        (KEY.replace(b"END PRIVATE", b"END EC PRIVATE"), None),
    ],
)
def test_the_first_whole_private_key(text: bytes, block: bytes | None) -> None:
    assert pem.private_key(text) == block


@pytest.mark.parametrize("label", pem.KEYS)
def test_hostile_keys_cost_linear_time(label: bytes) -> None:
    begin, end = b"-----BEGIN %b-----" % label, b"-----END %b-----" % label
    assert pem.private_key(begin * 50_000 + (begin + b"A\n") * 50_000) is None
    assert pem.private_key(begin * 100_000 + end) == begin + end
    assert pem.private_key(b"-----BEGIN " * 100_000) is None
    assert pem.private_key((begin + end) * 50_000) == begin + end


def test_whoever_writes_a_text_has_not_finished() -> None:
    text = b"# comment\n" + BLOCK + b"\n" + KEY + b"\n" + BLOCK
    unfinished = [n for n in range(len(text) + 1) if pem.cut_short(text[:n])]
    within = [text.find(b"-----BEGIN ", 0), text.find(b"-----BEGIN ", 70), text.rfind(b"-----BEGIN ")]
    ends = [text.find(BLOCK) + len(BLOCK), text.find(KEY) + len(KEY), len(text)]
    # A beginning is known when its first word is there, an end when nothing of it is missing; a key's counts for less.
    assert [n for n in unfinished if n < ends[0]] == list(range(within[0] + 11, ends[0]))
    assert [n for n in unfinished if n > ends[1]] == list(range(within[2] + 11, ends[2]))
    assert not pem.cut_short(text)
    assert not pem.cut_short(b"-----END CERTIFICATE-----" + text)
