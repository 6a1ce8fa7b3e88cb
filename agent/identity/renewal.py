"""What to do next about the workload certificate: ask the CA, use an answer, hold it for later, wait. No I/O, no clock.

Whoever acts brings the time (epoch seconds), the certificate in use and chance: `random` is uniform in [0, 1).
"""

from agent.identity import rotation
from agent.identity.credentials import Kind
from agent.model import Secret
from agent.record import record, replace


@record
class Ask:
    """Ask the CA, which may take `deadline` seconds for a call."""

    deadline: float


@record
class Use:
    """Put this certificate into use."""

    secret: Secret
    kind: Kind  # what the CA accepted for it


@record
class Wait:
    """Nothing can be done for so many seconds."""

    seconds: float


class Renewal:
    """`ratio` ± `jitter` of the lifetime is left at the rotation point; `usual` seconds are a CA's first deadline."""

    def __init__(self, ratio: float, jitter: float, usual: float) -> None:
        self._ratio, self._jitter, self._usual = ratio, jitter, usual
        self._patience = usual
        self._failures = 0
        self._held: Use | None = None  # verified, but valid only later

    @property
    def held(self) -> Secret | None:
        """The verified certificate that waits for its first moment."""
        return None if self._held is None else self._held.secret

    def due(self, current: Secret | None, now: float) -> Ask | Use:
        """The wait is over, or somebody wants a renewal now."""
        held = self._held
        if held is not None and held.secret.not_before <= now:
            self._held = None
            if now < held.secret.not_after:
                return replace(held, secret=replace(held.secret, created=now))
        return Ask(rotation.patience(remaining(current, now), self._patience))

    def answered(self, secret: Secret, kind: Kind, now: float) -> Use | None:
        """The CA gave a verified certificate; None: it is held, and until then this is a failed attempt."""
        self._patience = self._usual
        if secret.not_before <= now:
            return Use(secret, kind)
        if self._held is None or secret.not_before < self._held.secret.not_before:
            self._held = Use(secret, kind)
        return None

    def used(self, secret: Secret, now: float, random: float) -> Wait:
        """It is in use."""
        self._held, self._failures = None, 0
        return Wait(max(rotation.EARLIEST, self._rotation(secret, now, 2 * random - 1)))

    def failed(self, current: Secret | None, now: float, random: float, late: bool = False) -> Wait:
        """An attempt failed; `late`: the CA had the call and did not answer in time."""
        self._failures += 1
        if late:
            self._patience = rotation.longer(self._patience)
        left = remaining(current, now)
        wait = rotation.retry(self._failures, left, random)
        if self._held is not None:
            wait = rotation.hold(max(0.0, self._held.secret.not_before - now), left, wait)
        return Wait(wait)

    def overtaken(self, current: Secret | None, now: float) -> bool:
        """The clock was set to `now`: the certificate is not valid at that time, or past its rotation point.

        Everything else can wait for its date.
        """
        return current is None or now < current.not_before or not self._rotation(current, now, 0.0)

    def _rotation(self, secret: Secret, now: float, random: float) -> float:
        return rotation.delay(secret.created, secret.not_after, now, self._ratio, self._jitter, random)


def remaining(current: Secret | None, now: float) -> float | None:
    """Seconds for which the certificate in use is valid, None if there is none."""
    return None if current is None else current.not_after - now
