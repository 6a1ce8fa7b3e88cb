"""How long to wait before the next attempt: arithmetic only, the caller brings the randomness."""

from agent.record import record


@record
class Backoff:
    """Exponential backoff in seconds: `initial · factor**attempt`, at most `cap`, spread by ± `jitter` (a fraction)."""

    initial: float
    cap: float
    factor: float = 2.0
    jitter: float = 0.0

    def delay(self, attempt: int, random: float = 0.5) -> float:
        """Seconds to wait after failure number `attempt` (0 = the first); `random` is uniform in [0, 1)."""
        # Bounded exponent: a peer that is away for days must not overflow a float.
        base = min(self.cap, self.initial * self.factor ** min(attempt, 64))
        return base * (1.0 + self.jitter * (2.0 * random - 1.0))
