"""The verdict and what is news about it."""

import pytest

from agent.model import Readiness
from agent.status.ready import History, observe, verdict

YES, ONE, TWO = Readiness(True), Readiness(False, "one"), Readiness(False, "two")


@pytest.mark.parametrize(
    ("gates", "expected"),
    [([], YES), ([YES, YES], YES), ([YES, ONE, TWO], ONE), ([TWO, ONE], TWO), ([ONE, YES], ONE)],
)
def test_the_first_reason_counts(gates: list[Readiness], expected: Readiness) -> None:
    assert verdict(gates) == expected


def test_a_warning_keeps_it_ready() -> None:
    odd, old = Readiness(True, "the weather is odd"), Readiness(True, "the news is old")
    assert verdict([odd, YES, old]) == Readiness(True, "the weather is odd; the news is old")
    assert verdict([odd, ONE]) == ONE


def test_only_changes_are_news() -> None:
    history, news = observe(History(), ONE, 1.0)
    assert news
    history, news = observe(history, ONE, 2.0)
    assert not news
    history, news = observe(history, TWO, 3.0)
    assert news
    assert history.first is None
    history, news = observe(history, YES, 4.0)
    assert news
    assert history.first == 4.0
    history, _ = observe(history, ONE, 5.0)
    history, news = observe(history, YES, 6.0)
    assert news
    assert history.first == 4.0, "the start-up time is that of the first success"
