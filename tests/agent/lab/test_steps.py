"""The demo has the nine steps that the README promises; what they do: tests/e2e/test_demo.py."""

from agent.lab.steps import OUTAGE, SLOW, STEPS


def test_nine_steps_with_titles_of_their_own() -> None:
    assert len({step.title for step in STEPS}) == len(STEPS) == 9


def test_the_slow_request_outlasts_the_start_of_a_drain_only() -> None:
    # Envoy is given five seconds to drain; a longer request would be cut.
    assert 1 <= SLOW < 5
    assert OUTAGE > 0
