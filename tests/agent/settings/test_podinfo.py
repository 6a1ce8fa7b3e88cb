"""Downward API files as the kubelet writes them, and as it does not."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings.podinfo import parse, unquote


def test_a_file() -> None:
    text = 'a="x=y"\nnoequals\n\nb=""\nmulti="line1\\nline2\\ttab"\nuni="\\u00e9\\U0001f600\\x41\\101"\nraw="é"\n'
    assert parse(text.encode()) == {
        "a": "x=y",
        "b": "",
        "multi": "line1\nline2\ttab",
        "uni": "é😀AA",
        "raw": "é",
    }


def test_an_empty_file() -> None:
    assert parse(b"") == {}


@pytest.mark.parametrize(
    "value",
    [
        "x",
        '"',
        '"x',
        'x"',
        '"a"b"',
        '"\\q"',
        '"\\x4"',
        '"\\u12"',
        '"\\ud800"',
        '"\\U00110000"',
        '"\\"',
        '"\\8"',
        '"\\777"',
    ],
)
def test_bad_quoting_rejects_the_file(value: str) -> None:
    with pytest.raises(ValueError, match="line 2: "):
        parse(f'good="1"\nbad={value}\n'.encode())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_quoted_comes_back(text: str) -> None:
    # JSON's quoting is Go's for everything outside the surrogates, which JSON pairs.
    assert unquote(json.dumps(text, ensure_ascii=False)) == text


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    with suppress(ValueError):
        parse(b'k="' + data + b'"\n' + data)
