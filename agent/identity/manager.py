"""Keeps one valid workload certificate: key, request, CA, verification, publication, renewal, for ever."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from agent import logs
from agent import peer as peers
from agent.config import IdentityConfig
from agent.errors import AttemptError
from agent.events import Recorder
from agent.identity import certs, files, keys, rotation
from agent.identity.client import CaClient, Denied
from agent.identity.credentials import Credentials, Kind
from agent.latest import Latest
from agent.model import Readiness, Secret
from agent.protos import mesh_pb2

log = logs.scope("cache")

LARGE = 64 * 1024  # a chain this large is verified off the loop
TICK = 5.0  # how often clocks and validity are looked at


@dataclass(frozen=True, slots=True)
class RenewalStatus:
    """What people and metrics want to know beside the certificate itself. Times are epoch seconds, 0 = never."""

    next_renewal: float = 0.0
    failures: int = 0  # in a row
    failed_by_reason: tuple[tuple[str, int], ...] = ()  # since start
    last_error: str = ""
    last_reason: str = ""
    credential: str = ""  # what the CA accepted last: token, certificate, none
    renewals: int = 0


def _moment() -> rotation.Moment:
    return rotation.Moment(time.time(), time.monotonic())


class IdentityManager:
    """Publishes to `secret` only what was verified, and never withdraws a certificate before it has a better one.

    `readiness` turns false when the certificate expired and nothing better exists, and true with the next one.
    """

    def __init__(
        self,
        config: IdentityConfig,
        secret: Latest[Secret | None],
        readiness: Latest[Readiness],
        recorder: Recorder,
        key_future: Future[bytes] | None = None,
        *,
        clock: Callable[[], rotation.Moment] = _moment,
        longest_call: float = 20.0,
    ) -> None:
        self._config = config
        self._secret = secret
        self._readiness = readiness
        self._recorder = recorder
        self._key_future = key_future
        self._clock = clock
        self._longest_call = longest_call
        self._client = CaClient(config)
        self._credentials = Credentials()
        self._issued_roots = b""  # as the CA sent them, without the trust bundle
        self._bundle: tuple[str, ...] = ()
        self._wake = asyncio.Event()
        self.status: Latest[RenewalStatus] = Latest(RenewalStatus())

    async def start(self) -> None:
        """Nothing is bound. Raises ConfigError for a key that must never be used."""
        keys.check(self._config)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_for_ever(), name="identity-renewal")
            group.create_task(self._watch_clocks(), name="identity-clocks")

    def renew_now(self) -> None:
        """Ask for a new certificate at once; the one in use stays until the answer is verified."""
        self._wake.set()

    def update_trust(self, payload: bytes) -> None:
        """A trust bundle from the control plane (PCDS: serialized ProxyConfig). Raises ValueError if undecodable."""
        try:
            bundle = tuple(mesh_pb2.ProxyConfig.FromString(payload).ca_certificates_pem)
        except DecodeError as e:
            raise ValueError("the trust bundle cannot be decoded") from e
        if bundle == self._bundle:
            return
        self._bundle = bundle
        if (current := self._secret.value) is not None:
            self._publish(replace(current, roots=self._merged_roots()))
            self.renew_now()
        self._recorder.record(
            "identity", "trust-bundle", f"the control plane sent a trust bundle of {len(bundle)} roots"
        )

    def _merged_roots(self) -> bytes:
        return certs.merge_roots(self._issued_roots, *(b.encode() for b in self._bundle))

    async def _renew_for_ever(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            try:
                secret = await self._obtain()
            except AttemptError as e:
                failures += 1
                wait = rotation.retry(failures, self._remaining(), random.random())
                self._failed(e, failures, wait)
            else:
                failures = 0
                wait = self._renewed(secret)
            await self._sleep(wait)

    async def _obtain(self) -> Secret:
        """One certificate, verified. Raises AttemptError."""
        config = self._config
        key = await self._key()
        csr = certs.request(key, config.spiffe_id)
        token, own, kind = self._choose()
        deadline = rotation.patience(self._remaining(), self._longest_call)
        started = time.monotonic()
        try:
            chain = await self._client.sign(csr, token, own, deadline)
        except Denied:
            self._credentials = self._credentials.refused(kind)
            raise
        now = self._clock().wall
        if sum(map(len, chain)) > LARGE:
            secret = await asyncio.to_thread(certs.verify, chain, key, config.spiffe_id, now)
        else:
            secret = certs.verify(chain, key, config.spiffe_id, now)
        self._credentials = self._credentials.accepted(kind)
        log.debug("the CA answered after %.0f ms", (time.monotonic() - started) * 1000)
        self._issued_roots = chain[-1].encode()
        self.status.set(replace(self.status.value, credential=kind.value))
        return replace(secret, roots=self._merged_roots())

    async def _key(self) -> bytes:
        """A fresh key for every request; the first may have been started before the loop existed."""
        if self._key_future is not None:
            future, self._key_future = self._key_future, None
            return await asyncio.wrap_future(future)
        return await asyncio.to_thread(keys.generate, self._config)

    def _choose(self) -> tuple[str, tuple[bytes, bytes] | None, Kind]:
        """(token, own certificate, what that is) for the next call."""
        token, problem = "", ""
        try:
            token = peers.read_token(self._config.ca.token_file)
        except AttemptError as e:
            problem = str(e)
        current = self._secret.value
        # Certificates need TLS to be shown.
        own = not self._config.ca.plaintext and current is not None and current.not_after > self._clock().wall
        kind = self._credentials.choose(bool(token), own)
        if problem:
            log.warning(
                "%s; authenticating with %s", problem, kind.value if own else "a provisioned certificate, if any"
            )
        if kind is Kind.CERTIFICATE and current is not None:
            return "", (current.key, current.chain), kind
        return token, None, kind

    def _remaining(self) -> float | None:
        current = self._secret.value
        return None if current is None else current.not_after - self._clock().wall

    def _failed(self, e: AttemptError, failures: int, wait: float) -> None:
        status = self.status.value
        counts = dict(status.failed_by_reason)
        counts[e.reason] = counts.get(e.reason, 0) + 1
        self.status.set(
            replace(
                status,
                failures=failures,
                failed_by_reason=tuple(sorted(counts.items())),
                last_error=str(e),
                last_reason=e.reason,
            )
        )
        remaining = self._remaining()
        rest = "" if remaining is None else f"; the certificate in use is valid for {remaining:.0f} s more"
        if remaining is not None and remaining <= 0:
            rest = "; the certificate in use has expired"
        message = f"no new certificate: {e}; next attempt in {wait:.1f} s{rest}"
        # One event tells of the outage; the attempts that follow are in the log.
        if failures == 1 or e.reason != status.last_reason:
            self._recorder.record("identity", "renewal-failed", message, level=logging.WARNING, reason=e.reason)
        else:
            log.warning("%s", message)

    def _renewed(self, secret: Secret) -> float:
        """Publish and return the seconds until the next renewal."""
        config = self._config
        first = self._secret.value is None
        failures = self.status.value.failures
        self._publish(secret)
        wait = rotation.delay(
            secret.created,
            secret.not_after,
            self._clock().wall,
            config.grace_ratio,
            config.grace_jitter,
            random.uniform(-1.0, 1.0),
        )
        wait = max(wait, rotation.EARLIEST)
        self.status.set(
            replace(
                self.status.value,
                next_renewal=self._clock().wall + wait,
                failures=0,
                last_error="",
                last_reason="",
                renewals=self.status.value.renewals + (not first),
            )
        )
        what = "received the first certificate" if first else "renewed the certificate"
        after = f" after {failures} failed attempts" if failures else ""
        seconds = round(secret.not_after - secret.created)
        self._recorder.record(
            "identity",
            "issued" if first else "rotated",
            f"{what} for {secret.identity}{after}: valid for {seconds} s, renewal in {wait:.0f} s",
            serial=secret.serial,
        )
        return wait

    def _publish(self, secret: Secret) -> None:
        self._secret.set(secret)
        self._check_validity()
        if not self._config.output_dir:
            return
        try:
            files.write(self._config.output_dir, secret, self._config.output_mode)
        except OSError as e:
            message = f"cannot write certificates to {self._config.output_dir}: {e.strerror or e}"
            self._recorder.record("identity", "output-failed", message, level=logging.ERROR)

    async def _sleep(self, seconds: float) -> None:
        """Until `seconds` passed on either clock, or somebody wants a renewal now."""
        due = rotation.Due.after(seconds, self._clock())
        while (left := due.left(self._clock())) > 0:
            try:
                await asyncio.wait_for(self._wake.wait(), min(left, TICK))
            except TimeoutError:
                continue
            return

    async def _watch_clocks(self) -> None:
        """Notice expiry when it happens, and clocks that were set or stood still."""
        before = self._clock()
        while True:
            remaining = self._remaining()
            seen = self._secret.version
            tick = TICK if remaining is None or remaining <= 0 else min(TICK, remaining + 0.01)
            try:
                await asyncio.wait_for(self._secret.changed(seen), tick)
            except TimeoutError:
                self._check_validity()
            now = self._clock()
            if jump := rotation.jumped(before, now):
                message = (
                    f"the clock jumped by {jump:+.0f} s (set, or resumed from suspend); the certificate is re-evaluated"
                )
                self._recorder.record("identity", "clock-jumped", message, level=logging.WARNING, seconds=round(jump))
                self._check_validity()
                self._wake_if_outdated()
            before = now

    def _wake_if_outdated(self) -> None:
        """After a jump: renew unless the certificate in use is young and valid on the new time."""
        current = self._secret.value
        if current is None or self._readiness.value.ready is False:
            self.renew_now()
            return
        now = self._clock().wall
        config = self._config
        if now < current.not_before or not rotation.delay(
            current.created, current.not_after, now, config.grace_ratio, 0.0, 0.0
        ):
            self.renew_now()

    def _check_validity(self) -> None:
        """Readiness follows the validity of the certificate in use."""
        remaining = self._remaining()
        expired = remaining is not None and remaining <= 0
        if expired and self._readiness.value.ready:
            reason = f"the workload certificate has expired and no new one could be had: {self._last_error()}"
            self._readiness.set(Readiness(False, reason))
            self._recorder.record("identity", "expired", reason, level=logging.ERROR)
        elif not expired and not self._readiness.value.ready:
            self._readiness.set(Readiness(True))

    def _last_error(self) -> str:
        return self.status.value.last_error or "the CA has not answered yet"
