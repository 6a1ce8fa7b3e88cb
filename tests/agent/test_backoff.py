import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import Backoff


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 0.5), (1, 1.0), (2, 2.0), (7, 60.0), (10_000, 60.0)])
def test_doubles_up_to_the_cap(attempt: int, seconds: float) -> None:
    assert Backoff(initial=0.5, cap=60).delay(attempt) == seconds


@given(attempt=st.integers(0, 10**6), random=st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_fraction(attempt: int, random: float) -> None:
    plain = Backoff(initial=0.1, cap=5).delay(attempt)
    assert abs(Backoff(initial=0.1, cap=5, jitter=0.2).delay(attempt, random) - plain) <= plain * 0.2 + 1e-9
