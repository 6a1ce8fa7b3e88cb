"""Both spellings of durations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.durations import go_duration, proto_nanos, proto_seconds, proto_text, span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400),
        ("100ms", 0.1),
        ("1h2m3.5s", 3723.5),
        ("0", 0),
        ("-1.5s", -1.5),
        ("+2s", 2),
        (".5s", 0.5),
        ("2us", 2e-6),
        ("3ns", 3e-9),
        ("5µs", 5e-6),
    ],
)
def test_go(text: str, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "1d", "1.2.3s", ".s", "-", "1s2", " 1s", "1 s", "soon", "9999999h", "9" * 400 + "s"]
)
def test_not_go(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        go_duration(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("5s", "5s"),
        ("1.5s", "1.500s"),
        ("0.01s", "0.010s"),
        ("0.000001s", "0.000001s"),
        ("0.000000001s", "0.000000001s"),
        ("-1.5s", "-1.500s"),
        ("1.500000s", "1.500s"),
        ("0s", "0s"),
    ],
)
def test_proto(text: str, canonical: str) -> None:
    assert proto_text(proto_nanos(text)) == canonical


@pytest.mark.parametrize(
    "text", ["", "s", "5", "5m", "1.s", ".5s", "1.0000000001s", "--1s", "1e3s", "999999999999s", "٣s"]
)
def test_not_proto(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        proto_nanos(text)


def test_seconds() -> None:
    assert proto_seconds("2.5s") == 2.5


@given(st.integers(-(10**18), 10**18))
def test_nanoseconds_survive(nanos: int) -> None:
    assert proto_nanos(proto_text(nanos)) == nanos


@given(st.text(max_size=12))
def test_any_text(text: str) -> None:
    for read in (go_duration, proto_nanos):
        try:
            read(text)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m0s"), (3725, "1h2m"), (90000, "1d1h"), (86400 * 400, "400d0h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
