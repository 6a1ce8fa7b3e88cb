"""Keeps one valid workload certificate: key, request, CA, verification, publication, renewal, for ever."""

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from google.protobuf.message import DecodeError

from agent import logs
from agent import peer as peers
from agent.config import IdentityConfig
from agent.errors import AttemptError, ConfigError
from agent.events import Recorder
from agent.identity import certs, files, keys, rotation
from agent.identity.client import CaClient, Denied
from agent.identity.credentials import Credentials, Kind
from agent.identity.journal import Journal, RenewalStatus
from agent.latest import Latest
from agent.model import Readiness, Secret
from agent.protos import mesh_pb2

log = logs.scope("cache")

LARGE = 64 * 1024  # a chain this large is verified off the loop


def _moment() -> rotation.Moment:
    return rotation.Moment(time.time(), time.monotonic())


class IdentityManager:
    """Publishes to `secret` only what was verified, and never withdraws a certificate before it has a better one.

    `readiness` turns false when the certificate expired and nothing better exists, and true with the next one.
    `tick` seconds: how often clocks are compared; `longest_call` seconds: the deadline of one call to the CA.
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
        tick: float = 5.0,
        longest_call: float = 20.0,
    ) -> None:
        self._config = config
        self._secret = secret
        self._journal = Journal(readiness, recorder)
        self._key_future = key_future
        self._clock = clock
        self._tick = tick
        self._longest_call = longest_call
        self._client = CaClient(config)
        self._credentials = Credentials()
        self._issued_roots = b""  # as the CA sent them, without the trust bundle
        self._bundle: tuple[str, ...] = ()
        self._wake = asyncio.Event()

    @property
    def status(self) -> Latest[RenewalStatus]:
        """How renewal goes, readable and watchable."""
        return self._journal.status

    @property
    def retries(self) -> int:
        """num_outgoing_retries: calls to the CA that were repetitions, since start."""
        return self._client.retries

    async def start(self) -> None:
        """Nothing is bound. Raises ConfigError for a key that must never be used or a name that cannot be asked for."""
        keys.check(self._config)
        if not self._config.spiffe_id.isascii():
            message = "TRUST_DOMAIN, POD_NAMESPACE and SERVICE_ACCOUNT must be ASCII; the identity would be "
            raise ConfigError(message + repr(self._config.spiffe_id))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_for_ever(), name="identity-renewal")
            group.create_task(self._watch_clocks(), name="identity-clocks")

    def renew_now(self) -> None:
        """Ask for a new certificate at once; the one in use stays until the answer is verified."""
        self._wake.set()

    def update_trust(self, payload: bytes) -> None:
        """A trust bundle from the control plane (PCDS: serialized ProxyConfig). Raises ValueError if undecodable.

        Its certificates join the roots at once, and a new certificate is asked for: the CA may have changed.
        """
        try:
            bundle = tuple(mesh_pb2.ProxyConfig.FromString(payload).ca_certificates_pem)
        except DecodeError as e:
            raise ValueError("the trust bundle cannot be decoded") from e
        if bundle == self._bundle:
            return
        self._bundle = bundle
        self._journal.trusted(len(bundle))
        if (current := self._secret.value) is not None:
            self._publish(replace(current, roots=self._merged_roots()))
            self.renew_now()

    def _merged_roots(self) -> bytes:
        return certs.merge_roots(self._issued_roots, *(b.encode() for b in self._bundle))

    async def _renew_for_ever(self) -> None:
        while True:
            self._wake.clear()
            try:
                secret, kind = await self._obtain()
            except AttemptError as e:
                failures = self._journal.status.value.failures + 1
                wait = rotation.retry(failures, self._remaining(), random.random())
                self._journal.failed(e, wait, self._remaining())
            else:
                first = self._secret.value is None
                self._publish(secret)
                wait = max(rotation.EARLIEST, self._delay(secret, random.uniform(-1.0, 1.0)))
                self._journal.issued(secret, first, kind.value, wait)
            await self._sleep(wait)

    def _delay(self, secret: Secret, uniform: float) -> float:
        """Seconds until the rotation point."""
        ratio, jitter = self._config.grace_ratio, self._config.grace_jitter
        return rotation.delay(secret.created, secret.not_after, self._clock().wall, ratio, jitter, uniform)

    async def _obtain(self) -> tuple[Secret, Kind]:
        """One certificate, verified, and the credential that got it. Raises AttemptError."""
        key = await self._key()
        csr = certs.request(key, self._config.spiffe_id)
        token, own, kind = self._choose()
        deadline = rotation.patience(self._remaining(), self._longest_call)
        try:
            chain = await self._client.sign(csr, token, own, deadline)
        except Denied:
            self._credentials = self._credentials.refused(kind)
            raise
        self._credentials = self._credentials.accepted(kind)
        now = self._clock().wall
        if sum(map(len, chain)) > LARGE:
            secret = await asyncio.to_thread(certs.verify, chain, key, self._config.spiffe_id, now)
        else:
            secret = certs.verify(chain, key, self._config.spiffe_id, now)
        self._issued_roots = chain[-1].encode()
        return replace(secret, roots=self._merged_roots()), kind

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
            instead = "the certificate in use" if own else "a provisioned certificate, if there is one"
            log.warning("%s; authenticating with %s", problem, instead)
        if kind is Kind.CERTIFICATE and current is not None:
            return "", (current.key, current.chain), kind
        return token, None, kind

    def _remaining(self) -> float | None:
        current = self._secret.value
        return None if current is None else current.not_after - self._clock().wall

    def _publish(self, secret: Secret) -> None:
        self._secret.set(secret)
        self._journal.validity(self._remaining())
        if self._config.output_dir:
            try:
                files.write(self._config.output_dir, secret, self._config.output_mode)
            except OSError as e:
                self._journal.output_failed(self._config.output_dir, e)

    async def _sleep(self, seconds: float) -> None:
        """Until `seconds` passed on either clock, or somebody wants a renewal now."""
        due = rotation.Due.after(seconds, self._clock())
        while (left := due.left(self._clock())) > 0:
            # Not wait_for: Python 3.11's swallows a cancellation that comes together with the event.
            try:
                async with asyncio.timeout(min(left, self._tick)):
                    await self._wake.wait()
            except TimeoutError:
                continue
            return

    async def _watch_clocks(self) -> None:
        """Notice expiry when it happens, and clocks that were set or stood still."""
        before = self._clock()
        while True:
            remaining = self._remaining()
            expires = remaining is not None and 0 < remaining < self._tick
            try:
                tick = remaining + 0.01 if expires and remaining is not None else self._tick
                async with asyncio.timeout(tick):
                    await self._secret.changed(self._secret.version)
            except TimeoutError:
                self._journal.validity(self._remaining())
            now = self._clock()
            if jump := rotation.jumped(before, now):
                self._journal.jumped(jump)
                current = self._secret.value
                # Not valid on the new time, or past its rotation point: everything else can wait for its date.
                if current is None or now.wall < current.not_before or not self._delay(current, 0.0):
                    self.renew_now()
            before = now
