from hypothesis import given
from hypothesis import strategies as st

from agent.lograte import REMEMBERED, WINDOW, RateLimit


def line(text: str) -> tuple[str, int, str]:
    return ("agent", 20, text)


def test_the_first_ones_pass_and_the_rest_is_counted() -> None:
    limit = RateLimit(2)
    assert [limit.admit(line("a"), 0.0) for _ in range(5)] == [True, True, False, False, False]
    assert limit.admit(line("b"), 1.0)
    assert list(limit.over(WINDOW - 1)) == []
    assert list(limit.over(WINDOW)) == [(line("a"), 3)]
    assert limit.admit(line("a"), WINDOW)


def test_what_was_not_repeated_is_not_told() -> None:
    limit = RateLimit(2)
    limit.admit(line("a"), 0.0)
    assert list(limit.over(WINDOW * 2)) == []


def test_at_the_end_everything_is_told() -> None:
    limit = RateLimit(1)
    for _ in range(3):
        limit.admit(line("a"), 0.0)
    assert list(limit.over(0.0, everything=True)) == [(line("a"), 2)]


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 30)), max_size=60))
def test_shown_and_told_add_up(events: list[tuple[int, float]]) -> None:
    limit, now, shown, told = RateLimit(3), 0.0, 0, 0
    for text, later in events:
        now += later
        told += sum(count for _, count in limit.over(now))
        shown += limit.admit(line(str(text)), now)
    told += sum(count for _, count in limit.over(now, everything=True))
    assert shown + told == len(events)


def test_memory_is_bounded() -> None:
    limit = RateLimit(1)
    for i in range(REMEMBERED * 3):
        limit.admit(line(str(i)), 0.0)
    assert len(limit._seen) == REMEMBERED
