import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.health.decision import Health, News, observe

YES, NO = News(True), News(False, "down")


def play(script, success=1, failure=1):
    """[(number of the probe, what was said)] for a script of + and -."""
    state, said = Health(), []
    for number, sign in enumerate(script, 1):
        state, news = observe(state, "" if sign == "+" else "down", success, failure)
        if news:
            said.append((number, news))
    return said


@pytest.mark.parametrize(
    ("script", "success", "failure", "said"),
    [
        ("+", 1, 1, [(1, YES)]),
        ("-", 1, 1, [(1, NO)]),  # the first news may go either way
        ("++++", 1, 1, [(1, YES)]),  # nothing twice
        ("+-+-", 1, 1, [(1, YES), (2, NO), (3, YES), (4, NO)]),
        ("++-++++", 3, 1, [(3, NO), (6, YES)]),  # a failure restarts the count of successes
        ("+--+---+", 1, 3, [(1, YES), (7, NO), (8, YES)]),
        ("--", 1, 3, []),
    ],
)
def test_scripts(script, success, failure, said):
    assert play(script, success, failure) == said


@given(st.text("+-", max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_news_alternate_and_each_ends_a_run_of_its_threshold(script, success, failure):
    said = play(script, success, failure)
    states = [news.healthy for _, news in said]
    assert all(a != b for a, b in itertools.pairwise(states))
    for number, news in said:
        length = success if news.healthy else failure
        assert script[number - length : number] == ("+" if news.healthy else "-") * length
