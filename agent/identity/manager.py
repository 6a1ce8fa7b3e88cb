"""Keeps one valid workload certificate: key, request, CA, verification, publication, renewal, for ever."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Future

from agent import logs
from agent import peer as peers
from agent.config import IdentityConfig
from agent.errors import AttemptError
from agent.events import Recorder
from agent.identity import certs, report, rotation
from agent.identity.client import CaClient, Denied, Late
from agent.identity.credentials import WITH_PROVISIONED, Credentials, Kind, found
from agent.identity.fetcher import MachineToken
from agent.identity.journal import Calls, Journal, RenewalStatus
from agent.identity.renewal import Renewal, Use, remaining
from agent.identity.spare import KeySupply
from agent.identity.trust import Trust
from agent.latest import Latest
from agent.model import Readiness, Secret
from agent.record import replace

log = logs.scope("cache")

LARGE = 64 * 1024  # a chain this large is verified off the loop


def _moment() -> rotation.Moment:
    return rotation.Moment(time.time(), time.monotonic())


def _contents(path: str) -> bytes:
    """Of a file that need not be there."""
    try:
        with open(path, "rb") as f:
            return f.read(LARGE)
    except OSError:
        return b""


class IdentityManager:
    """Publishes to `secret` only what was verified, and never withdraws a certificate before it has a better one.

    `readiness` turns false when the certificate expired and nothing better exists, and true with the next one.
    `tick` seconds: how often clocks are compared; `usual` seconds: how long the CA may take at first.
    """

    def __init__(
        self,
        config: IdentityConfig,
        secret: Latest[Secret | None],
        readiness: Latest[Readiness],
        recorder: Recorder,
        key_future: Future[bytes] | None = None,
        machine: MachineToken | None = None,
        *,
        clock: Callable[[], rotation.Moment] = _moment,
        tick: float = 5.0,
        usual: float = 20.0,
    ) -> None:
        self._config = config
        self._secret = secret
        self._journal = Journal(readiness, recorder)
        self._keys = KeySupply(config, key_future)
        self._clock = clock
        self._tick = tick
        self._renewal = Renewal(config.grace_ratio, config.grace_jitter, usual)
        self._client = CaClient(config)
        self._credentials = Credentials()
        self._machine = machine
        self._trust = Trust()
        self._wake = asyncio.Event()

    @property
    def status(self) -> Latest[RenewalStatus]:
        """How renewal goes, readable and watchable."""
        return self._journal.status

    @property
    def calls(self) -> Calls:
        """Requests to the CA, in numbers."""
        return self._journal.calls

    @property
    def retries(self) -> int:
        """num_outgoing_retries: calls to the CA that were repetitions, since start."""
        return self._client.retries

    async def start(self) -> None:
        """Nothing is bound."""

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_for_ever(), name="identity-renewal")
            group.create_task(self._watch_clocks(), name="identity-clocks")
            group.create_task(self._keys.run(), name="identity-keys")

    def renew_now(self) -> None:
        """Ask for a new certificate at once; the one in use stays until the answer is verified."""
        self._wake.set()

    def update_trust(self, bundle: tuple[str, ...]) -> None:
        """A trust bundle from the control plane, PEM.

        Its certificates join the roots at once, and a new certificate is asked for: the CA may have changed.
        """
        if bundle == self._trust.bundle:
            return
        self._trust = replace(self._trust, bundle=bundle)
        self._journal.trusted(len(bundle))
        if (current := self._secret.value) is not None:
            self._publish(current)
            self.renew_now()

    def token(self) -> tuple[float | None, str]:
        """(when the token expires or expired, why it must not be sent), read now; (None, "") = cannot tell."""
        return peers.token_state(self._config.ca, self._clock().wall)

    def report(self) -> report.Report:
        """What `remora-agent certs` shows: JSON types, never a key or token."""
        return report.describe(
            self._secret.value,
            self.status.value,
            self._config.ca.addresses,
            self.token(),
            self._clock().wall,
            self._trust,
            _contents(self._config.ca.cert_file),
            self._journal.trying,
        )

    async def _renew_for_ever(self) -> None:
        while True:
            self._wake.clear()
            wait = await self._step()
            self._keys.plan(wait)
            await self._sleep(wait)

    async def _step(self) -> float:
        """One move towards the next certificate; seconds until the following one."""
        action = self._renewal.due(self._secret.value, self._clock().wall)
        if isinstance(action, Use):
            return self._use(action)
        self._journal.trying = True
        try:
            secret, kind = await self._obtain(action.deadline)
        except AttemptError as e:
            return self._failed(e)
        finally:
            self._journal.trying = False
        answer = self._renewal.answered(secret, kind, self._clock().wall)
        return self._hold(secret) if answer is None else self._use(answer)

    def _use(self, action: Use) -> float:
        secret, current, now = action.secret, self._secret.value, self._clock().wall
        until = current.not_after if current is not None and self._config.root_overlap else 0.0
        if self._trust.issued not in (b"", secret.roots):
            self._journal.rerooted()
        self._trust = self._trust.answered(secret.roots, until).at(now)
        self._publish(secret)
        wait = self._renewal.used(secret, now, random.random()).seconds
        self._journal.issued(secret, current is None, action.kind.value, wait)
        return wait

    def _hold(self, secret: Secret) -> float:
        assert self._renewal.held is not None
        self._journal.held(self._renewal.held.not_before)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(secret.not_before))
        what = f"the CA's certificate is valid only from {since} on and is held until then"
        return self._failed(AttemptError("not_yet_valid", f"{what}; compare the clocks of this host and the CA"))

    def _failed(self, e: AttemptError) -> float:
        current, now = self._secret.value, self._clock().wall
        wait = self._renewal.failed(current, now, random.random(), isinstance(e, Late)).seconds
        lifetime = current.not_after - current.created if current is not None else 0.0
        self._journal.failed(e, now, wait, remaining(current, now), lifetime)
        return wait

    async def _obtain(self, deadline: float) -> tuple[Secret, Kind]:
        """One certificate, verified, and the credential that got it. Raises AttemptError."""
        key = await self._keys.take()
        csr = certs.request(key, self._config.spiffe_id)
        usable = await self._usable()
        kind = self._credentials.choose(usable)
        current = self._secret.value
        own = (current.key, current.chain) if kind is Kind.CERTIFICATE and current is not None else None
        self._inspect()
        began, good = self._clock().mono, False
        try:
            chain = await self._client.sign(csr, kind, own, deadline)
            secret = await self._verify(chain, key)
            good = True
        except Denied as e:
            self._journal.refused(kind.value)
            self._credentials = self._credentials.refused(kind, usable, e.certificate)
            raise
        finally:
            self._journal.calls.add(self._clock().mono - began, good)
        self._credentials = self._credentials.accepted(kind)
        return secret, kind

    async def _verify(self, chain: list[str], key: bytes) -> Secret:
        now = self._clock().wall
        if sum(map(len, chain)) > LARGE:
            return await asyncio.to_thread(certs.verify, chain, key, self._config.spiffe_id, now)
        return certs.verify(chain, key, self._config.spiffe_id, now)

    def _inspect(self) -> None:
        """Look at the certificate in use as other workloads do: an issuer may have expired before it."""
        current, now = self._secret.value, self._clock().wall
        if current is not None and current.not_before <= now < current.not_after:
            self._journal.inspected(certs.flaw(current, now))

    async def _usable(self) -> frozenset[Kind]:
        """Every credential that could be shown now.

        Raises AttemptError if the machine's token cannot be fetched and nothing else is there.
        """
        ca, token, problems = self._config.ca, False, list[AttemptError]()
        try:
            if self._machine is not None:
                await self._machine.refresh()
        except AttemptError as e:
            problems.append(e)
        try:
            token = bool(peers.current_token(ca))
        except AttemptError as e:
            problems.append(e)
        current = self._secret.value
        # Certificates need TLS to be shown.
        own = not ca.plaintext and current is not None and current.not_after > self._clock().wall
        provisioned = False
        try:
            provisioned = not ca.plaintext and peers.read_client_pair(ca, logging.DEBUG) is not None
        except AttemptError as e:
            problems.append(e)
            usable = found(token, own, True) - WITH_PROVISIONED
        else:
            usable = found(token, own, provisioned)
        if problems:
            if self._machine is not None and not usable:
                raise problems[0]
            others = " and ".join(sorted(kind.value for kind in usable)) or "nothing"
            log.warning("%s; to authenticate there is %s", problems[0], others)
        return usable

    def _remaining(self) -> float | None:
        return remaining(self._secret.value, self._clock().wall)

    def _publish(self, secret: Secret) -> None:
        """Put `secret` into use with all roots that are trusted now."""
        if (roots := self._trust.merged()) != secret.roots:
            secret = replace(secret, roots=roots)
        self._secret.set(secret)
        self._journal.validity(self._remaining())

    def _drop_former_roots(self) -> None:
        current, trust = self._secret.value, self._trust.at(self._clock().wall)
        if current is not None and trust is not self._trust:
            self._trust = trust
            self._journal.distrusted()
            self._publish(current)

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
            self._drop_former_roots()
            try:
                async with asyncio.timeout(self._next_look()):
                    await self._secret.changed(self._secret.version)
            except TimeoutError:
                self._journal.validity(self._remaining())
            now = self._clock()
            if jump := rotation.jumped(before, now):
                self._journal.jumped(jump)
                if self._renewal.overtaken(self._secret.value, now.wall):
                    self.renew_now()
            before = now

    def _next_look(self) -> float:
        """Seconds until something is due that no other timer watches: a tick, the expiry, the end of former roots."""
        remaining, end = self._remaining(), self._trust.next_end()
        due = [self._tick]
        if remaining is not None and remaining > 0:
            due.append(remaining + 0.01)
        if end is not None:
            due.append(max(0.0, end - self._clock().wall) + 0.01)
        return min(due)
