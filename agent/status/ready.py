"""The verdict of /healthz/ready from its gates: pure."""

from collections.abc import Iterable

from agent.model import Readiness
from agent.record import record


def verdict(answers: Iterable[Readiness]) -> Readiness:
    """The first refusal, in the order of the gates; ready if there is none, with whatever they warn of."""
    warnings = []
    for answer in answers:
        if not answer.ready:
            return answer
        warnings.append(answer.reason)
    return Readiness(True, "; ".join(filter(None, warnings)))


@record
class History:
    """What was said before, so that only news is logged. `first`: seconds since the start at the first success."""

    last: Readiness | None = None
    first: float | None = None


def observe(history: History, now: Readiness, since_start: float) -> tuple[History, bool]:
    """The history with this verdict in it, and whether it differs from the one before."""
    first = since_start if now.ready and history.first is None else history.first
    return History(now, first), now != history.last
