"""Waiting for something, and what it says when that never comes."""

import pytest

from agent.lab.observe import Unmet, agent_lane, app_lane, envoy_lane, until


def test_until_returns_the_time_it_took() -> None:
    answers = iter([None, "", 0, "there"])
    assert until("an answer", 10.0, lambda: next(answers), pause=0.0) >= 0.0


def test_until_says_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(Unmet, match=r"expected a miracle within 0 s; seen: not so; last seen: \[\]"):
        until("a miracle", 0.0, list, pause=0.0)


def test_lanes_are_named_for_people() -> None:
    assert [lane("a") for lane in (agent_lane, envoy_lane, app_lane)] == ["a: agent", "a: Envoy", "a: application"]
