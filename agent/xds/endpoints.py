"""Which of the control plane's endpoints is dialled next, and when: arithmetic over what is known of each."""

import math
from collections.abc import Callable, Iterable, Sequence

from agent.backoff import Backoff
from agent.record import record, state

# How long an endpoint that failed stays behind the others. It is not forgotten: where nobody else is left, it is tried.
BEHIND = Backoff(initial=1.0, cap=60.0, jitter=0.5)

FIRST, FACTOR = 0.1, 2.0  # seconds to wait before the second attempt, and what every later one multiplies it by
SHORTEST_CAP, LONGEST_CAP = 0.4, 5.0  # seconds
SHARE = 0.1  # of the outage so far that a wait may take


def redial(attempt: int, away: float, random: float) -> float:
    """Seconds to wait after the failed attempt number `attempt` (0 = the first), `away` seconds into the outage.

    The first retry is immediate; then it doubles from 0.1 s, but never takes more than a tenth of the outage so far (at
    least 0.4, at most 5 s), so that an outage is never stretched by more than that. `random` in [0, 1) spreads by half.
    """
    if attempt == 0:
        return 0.0
    cap = min(LONGEST_CAP, max(SHORTEST_CAP, away * SHARE))
    return min(cap, FIRST * FACTOR ** min(attempt - 1, 16)) * (0.5 + 0.5 * random)


@record
class Candidate:
    """One endpoint. `rank`: place in the configuration, then SRV priority; lower ones come first."""

    address: str  # host:port to dial
    name: str  # that its certificate must be for
    rank: tuple[int, int] = (0, 0)
    weight: int = 1  # SRV weight, among those of the same rank
    proxied: bool = False  # dialled through the HTTP proxy; that is decided by the name, before its addresses are known


@state
class _Known:
    draw: float  # place among those of the same rank, drawn once
    failures: int = 0
    behind_until: float = 0.0
    error: str = ""


@record
class Standing:
    """What is known of one endpoint, for people."""

    address: str
    failures: int  # in a row
    behind: float  # seconds for which others are preferred
    error: str


class Endpoints:
    """The memory of all streams of one agent. `now` is monotonic, `random` uniform in [0, 1)."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def order(self, candidates: Sequence[Candidate], now: float, random: Callable[[], float]) -> list[Candidate]:
        """All of them, the best first; those that failed lately are last, the one forgiven first before the others."""
        known = {}
        for candidate in candidates:
            address = candidate.address
            # The smallest of exponential draws: with a probability in proportion to the weight.
            known[address] = self._known.get(address) or _Known(-math.log(1.0 - random()) / max(candidate.weight, 0.01))
        self._known = known

        def key(candidate: Candidate) -> tuple[float, tuple[int, int], float]:
            one = known[candidate.address]
            behind = one.behind_until if one.behind_until > now else 0.0
            return behind, candidate.rank, one.draw

        return sorted(_unique(candidates), key=key)

    def answered(self, address: str) -> None:
        """It gave a response: whatever it did before is forgiven."""
        if one := self._known.get(address):
            one.failures, one.behind_until, one.error = 0, 0.0, ""

    def failed(self, address: str, reason: str, now: float, random: float) -> None:
        """It refused, reset, or said nothing in time."""
        if one := self._known.get(address):
            one.behind_until = now + BEHIND.delay(one.failures, random)
            one.failures += 1
            one.error = reason

    def standings(self, now: float) -> list[Standing]:
        """In the order in which they were last tried."""
        return [
            Standing(address, one.failures, round(max(0.0, one.behind_until - now), 3), one.error)
            for address, one in self._known.items()
        ]


def _unique(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best ranked of those with the same address."""
    found: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: c.rank):
        found.setdefault(candidate.address, candidate)
    return list(found.values())
