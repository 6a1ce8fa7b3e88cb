import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity import rotation
from agent.identity.rotation import Due, Moment

HOUR = 3600.0


@pytest.mark.parametrize(
    ("created", "expires", "now", "ratio", "wait"),
    [
        (-2 * HOUR, -HOUR, 0, 0.5, 0),  # expired
        (0, HOUR, 0, 0.5, HOUR / 2),
        (0, HOUR, 0, 0.25, HOUR * 0.75),
        (0, HOUR, 0, 0.75, HOUR * 0.25),
        (0, HOUR, 0, 1.0, 0),
        (0, HOUR, 0, 0.0, HOUR),
        (0, HOUR, HOUR / 4, 0.5, HOUR / 4),
        (0, HOUR, HOUR * 0.6, 0.5, 0),
        (HOUR / 2, HOUR * 1.5, 0, 0.25, HOUR * 1.25),  # a window that starts in half an hour
        (0, HOUR, 0, 7.0, 0),
        (0, HOUR, 0, -7.0, HOUR),
    ],
)
def test_delay(created: float, expires: float, now: float, ratio: float, wait: float) -> None:
    assert rotation.delay(created, expires, now, ratio, 0.0, 0.0) == pytest.approx(wait)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1))
def test_jitter_never_leaves_the_lifetime(ratio: float, jitter: float, random: float) -> None:
    wait = rotation.delay(0, HOUR, 0, ratio, jitter, random)
    assert 0 <= wait <= HOUR
    assert abs(wait - (1 - ratio) * HOUR) <= jitter * HOUR + 1e-6


@pytest.mark.parametrize(
    ("failures", "remaining", "wait"),
    [
        (1, None, 0.5),  # no certificate yet
        (2, None, 0.75),
        (100, None, 60.0),
        (1, HOUR, 1.0),
        (2, HOUR, 2.0),
        (4, HOUR, 8.0),
        (100, HOUR, 60.0),
        (100, 300.0, 30.0),  # a tenth of what remains
        (1, 2.0, 0.2),
        (9, 0.001, rotation.SOONEST),
        (1, 0.0, 0.5),  # expired
        (100, -5.0, 10.0),
    ],
)
def test_retry(failures: int, remaining: float | None, wait: float) -> None:
    assert rotation.retry(failures, remaining, 0.5) == pytest.approx(wait)


@given(st.integers(1, 10**6), st.one_of(st.none(), st.floats(-1e9, 1e9)), st.floats(0, 1, exclude_max=True))
def test_retry_is_always_bounded(failures: int, remaining: float | None, random: float) -> None:
    assert rotation.SOONEST <= rotation.retry(failures, remaining, random) <= 90.0


@pytest.mark.parametrize(
    ("remaining", "deadline"), [(None, 20), (0, 20), (-5, 20), (HOUR, 20), (30, 10), (3, 1), (0.5, 1)]
)
def test_patience(remaining: float | None, deadline: float) -> None:
    assert rotation.patience(remaining, 20) == deadline


@pytest.mark.parametrize(
    ("begins", "remaining", "retry", "wait"),
    [
        (60, HOUR, 5, 60),  # the one in use lasts until then: nothing else is needed
        (60, 61, 5, 60),
        (60, 60, 5, 5),  # it does not: the CA is asked again meanwhile
        (60, -5, 5, 5),
        (60, None, 5, 5),  # there is none yet
        (3, None, 5, 3),
        (0, None, 5, 0),
        (86400 * 3650, HOUR, 30, 30),  # a date far away must not stop renewal
    ],
)
def test_hold(begins: float, remaining: float | None, retry: float, wait: float) -> None:
    assert rotation.hold(begins, remaining, retry) == wait


@pytest.mark.parametrize(("patience", "later"), [(20, 40), (40, 80), (80, 90), (90, 90), (100, 100)])
def test_longer(patience: float, later: float) -> None:
    assert rotation.longer(patience) == later


@pytest.mark.parametrize(
    ("wall", "mono", "left"),
    [
        (1000, 0, 60),
        (1030, 30, 30),
        (1060, 60, 0),
        (9000, 30, 0),  # the clock was set forward, or the host slept
        (0, 30, 30),  # set back: the monotonic clock holds the date
        (0, 60, 0),
    ],
)
def test_due_on_either_clock(wall: float, mono: float, left: float) -> None:
    assert Due.after(60, Moment(1000, 0)).left(Moment(wall, mono)) == left


@pytest.mark.parametrize(("wall", "mono", "jump"), [(5, 5, 0), (6, 5, 0), (65, 5, 60), (-55, 5, -60), (3600, 0, 3600)])
def test_jumped(wall: float, mono: float, jump: float) -> None:
    assert rotation.jumped(Moment(0, 0), Moment(wall, mono)) == jump


@pytest.mark.parametrize(
    ("left", "due"),
    [
        (12 * 3600.0, 600.0),  # the ordinary certificate of a day
        (3600.0, 600.0),
        (2400.0, 600.0),
        (1200.0, 300.0),
        (60.0, 15.0),
        (20.0, 5.0),
        (12.0, 5.0),  # not while the pod starts
        (10.0, 5.0),
        (6.0, 3.0),
        (0.5, 0.25),
        (0.0, 0.0),
    ],
)
def test_spare(left: float, due: float) -> None:
    assert rotation.spare(left) == due


@given(st.floats(0, 1e9))
def test_a_spare_key_is_there_well_before_it_is_needed(left: float) -> None:
    assert 0 <= rotation.spare(left) <= left / 2


@pytest.mark.parametrize(
    ("remaining", "step"),
    [(501, 0), (500, 50), (251, 50), (250, 25), (100, 10), (50, 5), (10, 1), (0.1, 1), (0, 0), (-5, 0)],
)
def test_rung(remaining: float, step: int) -> None:
    assert rotation.rung(remaining, 1000) == step
    assert rotation.rung(remaining, 0) == 0
