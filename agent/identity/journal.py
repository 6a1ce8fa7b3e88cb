"""What people, probes and metrics learn about the certificate: status, events, readiness."""

import logging

from agent import logs
from agent.errors import AttemptError
from agent.events import Recorder
from agent.identity import rotation
from agent.latest import Latest
from agent.model import Readiness, Secret
from agent.record import record, replace

log = logs.scope("cache")


@record
class RenewalStatus:
    """How renewal goes. Times are epoch seconds, 0 = never."""

    next_renewal: float = 0.0
    renewals: int = 0  # since start, without the first certificate
    failures: int = 0  # in a row
    failed_by_reason: tuple[tuple[str, int], ...] = ()  # since start
    failing_since: float = 0.0  # the first of them
    last_reason: str = ""
    last_error: str = ""  # stays when it is over: `failures` tells
    last_failed: float = 0.0
    credential: str = ""  # what the CA accepted last: token, certificate, provisioned, none
    refused: tuple[str, ...] = ()  # what it refused since it last accepted the same
    clock_jumps: int = 0  # since start
    held_until: float = 0.0  # a verified certificate becomes valid then and replaces the one in use


class Calls:
    """What asking the CA has cost since start."""

    __slots__ = ("failed", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.failed = 0  # without a usable answer
        self.seconds = 0.0

    def add(self, seconds: float, good: bool) -> None:
        """One request was answered, or failed for good, after so long."""
        self.requests += 1
        self.failed += not good
        self.seconds += seconds


class Journal:
    """Keeps `status` and `readiness`, and records what changed, once."""

    def __init__(self, readiness: Latest[Readiness], recorder: Recorder) -> None:
        self._readiness = readiness
        self._recorder = recorder
        self.status: Latest[RenewalStatus] = Latest(RenewalStatus())
        self.calls = Calls()
        self.trying = False  # the CA is being asked
        self._told = 0  # the step of the ladder that was told last
        self._flaw = ""  # of the certificate in use, as it was told last

    def held(self, until: float) -> None:
        """A verified certificate waits for its first moment (epoch seconds)."""
        self.status.set(replace(self.status.value, held_until=until))

    def issued(self, secret: Secret, first: bool, credential: str, wait: float) -> None:
        """A verified certificate is in use; the next renewal comes in `wait` seconds."""
        status = self.status.value
        after = f" after {status.failures} failed attempts" if status.failures else ""
        self.status.set(
            replace(
                status,
                next_renewal=secret.created + wait,
                renewals=status.renewals + (not first),
                failures=0,
                failing_since=0.0,
                last_reason="",
                credential=credential,
                refused=tuple(kind for kind in status.refused if kind != credential),
                held_until=0.0,
            )
        )
        self._told = 0
        what = "received the first certificate" if first else "renewed the certificate"
        seconds = round(secret.not_after - secret.created)
        message = f"{what} for {secret.identity}{after}: valid for {seconds} s, renewal in {wait:.0f} s"
        self._recorder.record("identity", "issued" if first else "rotated", message, serial=secret.serial)

    def inspected(self, flaw: str) -> None:
        """The certificate in use was looked at: why peers refuse it although it has not expired, "" if they do not."""
        if flaw and flaw != self._flaw:
            message = f"other workloads refuse the certificate in use although it has not expired: {flaw}"
            self._recorder.record("identity", "in-use-refused", message, level=logging.WARNING)
        self._flaw = flaw

    def refused(self, credential: str) -> None:
        """The CA does not believe or permit what was shown."""
        status = self.status.value
        self.status.set(replace(status, refused=tuple(sorted({*status.refused, credential}))))

    def failed(self, e: AttemptError, now: float, wait: float, remaining: float | None, lifetime: float = 0.0) -> None:
        """An attempt failed; the next follows in `wait` seconds, the certificate in use is valid for `remaining` of its
        `lifetime`.
        """
        status = self.status.value
        counts = dict(status.failed_by_reason)
        counts[e.reason] = counts.get(e.reason, 0) + 1
        self.status.set(
            replace(
                status,
                next_renewal=now + wait,
                failures=status.failures + 1,
                failed_by_reason=tuple(sorted(counts.items())),
                last_reason=e.reason,
                last_error=str(e),
                failing_since=status.failing_since or now,
                last_failed=now,
            )
        )
        state = ""
        if remaining is not None:
            state = f"valid for {remaining:.0f} s more" if remaining > 0 else "expired"
        message = f"no new certificate: {e}; next attempt in {wait:.1f} s"
        message += f"; the certificate in use is {state}" if state else ""
        # One event tells of the outage and of every new reason; the other attempts are in the log.
        if e.reason != status.last_reason:
            self._recorder.record("identity", "renewal-failed", message, level=logging.WARNING, reason=e.reason)
        else:
            log.warning("%s", message)
        if remaining is not None:
            self._tell_how_little_is_left(remaining, lifetime)

    def _tell_how_little_is_left(self, remaining: float, lifetime: float) -> None:
        """Once for each step of the ladder: alerts must have something long before the end."""
        step, status = rotation.rung(remaining, lifetime), self.status.value
        if not step or (self._told and step >= self._told):
            return
        self._told = step
        message = (
            f"at most {step} % of the certificate's validity is left ({remaining:.0f} s) and renewal has failed "
            f"{status.failures} times in a row: {status.last_error}"
        )
        fields = {"percent": step, "seconds": round(remaining)}
        self._recorder.record("identity", "expiry-nears", message, level=logging.WARNING, **fields)

    def validity(self, remaining: float | None) -> None:
        """Readiness follows the validity of the certificate in use; without one yet, it is not our business."""
        expired = remaining is not None and remaining <= 0
        if expired and self._readiness.value.ready:
            status = self.status.value
            why = status.last_error if status.failures else "the CA has not answered yet"
            reason = f"the workload certificate has expired and no new one could be had: {why}"
            self._readiness.set(Readiness(False, reason))
            self._recorder.record("identity", "expired", reason, level=logging.ERROR)
        elif not expired and not self._readiness.value.ready:
            self._readiness.set(Readiness(True))

    def jumped(self, seconds: float) -> None:
        """The wall clock left the monotonic one."""
        status = self.status.value
        self.status.set(replace(status, clock_jumps=status.clock_jumps + 1))
        message = (
            f"the clock jumped by {seconds:+.0f} s (set, or resumed from suspend); the certificate is re-evaluated"
        )
        self._recorder.record("identity", "clock-jumped", message, level=logging.WARNING, seconds=round(seconds))

    def trusted(self, roots: int) -> None:
        """A trust bundle came from the control plane."""
        message = f"the control plane sent a trust bundle with {roots} entries"
        self._recorder.record("identity", "trust-bundle", message)

    def distrusted(self) -> None:
        """Former roots of the CA went."""
        message = "the CA's former roots are trusted no longer: the last certificate that came with them has expired"
        self._recorder.record("identity", "roots-dropped", message)

    def rerooted(self) -> None:
        """The CA answers with other roots than before."""
        message = (
            "the CA has new roots; where ROOT_OVERLAP is on the former ones stay until our last certificate expires"
        )
        self._recorder.record("identity", "roots-changed", message)
