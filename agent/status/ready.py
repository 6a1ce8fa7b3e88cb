"""The verdict of /healthz/ready from its gates: pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from agent.model import Readiness


def verdict(answers: Iterable[Readiness]) -> Readiness:
    """Ready if every gate is; else the first reason, in the order of the gates."""
    return next((answer for answer in answers if not answer.ready), Readiness(True))


@dataclass(frozen=True, slots=True)
class History:
    """What was said before, so that only news is logged. `first`: seconds since the start at the first success."""

    last: Readiness | None = None
    first: float | None = None


def observe(history: History, now: Readiness, since_start: float) -> tuple[History, bool]:
    """The history with this verdict in it, and whether it differs from the one before."""
    first = since_start if now.ready and history.first is None else history.first
    return History(now, first), now != history.last
