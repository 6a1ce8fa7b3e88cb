"""When to renew a certificate, and what to do about failures and clocks that jump. Seconds; the caller brings time."""

from agent.backoff import Backoff
from agent.record import record

# Before the first certificate exists a pod waits for it: ask soon, then less often.
FIRST = Backoff(initial=0.5, cap=60.0, factor=1.5, jitter=0.5)
RENEW = Backoff(initial=1.0, cap=60.0, factor=2.0, jitter=0.2)
# Nothing valid is left: every second is an outage, but a returning CA must survive all its clients.
EXPIRED = Backoff(initial=0.5, cap=10.0, factor=2.0, jitter=0.3)
SOONEST = 0.1  # after a failure
EARLIEST = 0.5  # after a success: a grace ratio of 1 means "renew at once", and the CA must survive it
SLOWEST = 90.0  # of a CA that works: a Kubernetes signer is given a minute by istiod
JUMP = 2.0
LADDER = (1, 5, 10, 25, 50)  # percent of the validity left at which an outage is told again
SETTLED = 5.0  # after a certificate: Envoy has it by then and nobody waits for the CPU
LATEST_SPARE = 600.0  # after a certificate: an early renewal, asked for by a clock or a CA, finds a key as well


@record
class Moment:
    """One instant on both clocks: `wall` can be set and runs through suspend, `mono` cannot and does not."""

    wall: float
    mono: float


def delay(created: float, expires: float, now: float, ratio: float, jitter: float, random: float) -> float:
    """Seconds until renewal: `ratio` ± `jitter` of the lifetime is left then. `random` is uniform in [-1, 1).

    `created` is the local time of receipt: CAs backdate not_before.
    """
    left = min(1.0, max(0.0, ratio + jitter * random))
    return max(0.0, expires - left * (expires - created) - now)


def retry(failures: int, remaining: float | None, random: float) -> float:
    """Seconds to wait after failure number `failures` (1 = the first) in a row.

    `remaining` validity of the certificate in use, None if there never was one; `random` is uniform in [0, 1).
    """
    attempt = max(0, failures - 1)
    if remaining is None:
        return FIRST.delay(attempt, random)
    if remaining <= 0:
        return EXPIRED.delay(attempt, random)
    return max(SOONEST, min(RENEW.delay(attempt, random), remaining / 10))


def patience(remaining: float | None, longest: float) -> float:
    """The deadline of one call to the CA: a call that hangs must leave time for others before expiry."""
    if remaining is None or remaining <= 0:
        return longest
    return min(longest, max(1.0, remaining / 3))


def longer(patience: float) -> float:
    """The deadline after a call that was too long for `patience`: a CA that is slow must get its turn."""
    return min(2 * patience, max(patience, SLOWEST))


def spare(left: float) -> float:
    """Seconds until the next key is made when it is needed in `left`: not while a pod starts, but by half-time."""
    return max(min(SETTLED, left / 2), min(LATEST_SPARE, left / 4))


def hold(begins: float, remaining: float | None, retry: float) -> float:
    """Seconds to wait with a certificate in hand that becomes valid in `begins` seconds.

    If the one in use (valid for `remaining`) lasts until then nothing else is needed; if not, the CA is asked again
    after `retry` seconds: it may have set its clock right.
    """
    return begins if remaining is not None and remaining > begins else min(begins, retry)


@record
class Due:
    """A renewal date on both clocks; whichever comes first counts, so that no clock change can delay it."""

    wall: float
    mono: float

    @classmethod
    def after(cls, seconds: float, now: Moment) -> "Due":
        return cls(now.wall + seconds, now.mono + seconds)

    def left(self, now: Moment) -> float:
        """Seconds until it is due, 0 when it is."""
        return max(0.0, min(self.wall - now.wall, self.mono - now.mono))


def jumped(before: Moment, after: Moment) -> float:
    """Seconds by which the wall clock left the monotonic one (set by hand, or resume from suspend); 0 if it did not."""
    drift = (after.wall - before.wall) - (after.mono - before.mono)
    return drift if abs(drift) >= JUMP else 0.0


def rung(remaining: float, lifetime: float) -> int:
    """The lowest step of LADDER that `remaining` of `lifetime` seconds has come down to; 0 = above all, or expired."""
    if remaining <= 0 or lifetime <= 0:
        return 0
    return next((step for step in LADDER if remaining <= lifetime * step / 100), 0)
