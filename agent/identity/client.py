"""The call to the CA: istio.v1.auth.IstioCertificateService/CreateCertificate, retried as istio's agent does."""

import asyncio
import random
from collections.abc import Callable

from google.protobuf.message import DecodeError

from agent import logs
from agent import peer as peers
from agent.backoff import Backoff
from agent.config import IdentityConfig
from agent.errors import AttemptError
from agent.protos import ca_pb2
from agent.rpc.status import Code, RpcError

log = logs.scope("citadelclient")

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
ATTEMPTS = 5
WAITS = Backoff(initial=0.1, cap=0.8, factor=2.0, jitter=0.1)
PASSING = frozenset(
    {
        Code.UNAVAILABLE,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.INTERNAL,
    }
)


class Denied(AttemptError):
    """The CA heard us and does not believe or permit the credential that was shown."""


class CaClient:
    """Asks for certificates. Every attempt is a new connection, so that roots and client certificate are fresh."""

    def __init__(self, config: IdentityConfig, uniform: Callable[[], float] = random.random) -> None:
        self._config = config
        self._uniform = uniform
        self._first = 0  # index of the address that worked last
        self.retries = 0  # outgoing calls that were repetitions, since start

    async def sign(
        self, csr: bytes, token: str, own: tuple[bytes, bytes] | None, deadline: float, hint: str
    ) -> list[str]:
        """The chain for `csr` (PEM), as the CA sent it. `deadline` seconds bound one attempt.

        `token` "" shows none; `own` (key, chain) is shown instead of the configured client certificate; `hint` says
        what to look at when the CA refuses the credential.
        Raises AttemptError with a sentence; its subclass Denied when the credential was refused.
        """
        addresses = self._config.ca.addresses
        if not addresses:
            raise AttemptError("no_address", "no address of a CA is configured")
        message = self._message(csr)
        attempts = max(ATTEMPTS, len(addresses))
        for attempt in range(attempts):
            index = (self._first + attempt) % len(addresses)
            try:
                chain = await self._call(addresses[index], message, token, own, deadline, attempt)
            except Denied as e:
                raise Denied(e.reason, f"{e}; {hint}") from e
            except _Passing as e:
                if attempt + 1 == attempts:
                    raise AttemptError(e.reason, str(e)) from e
                log.debug("attempt %d of %d failed: %s", attempt + 1, attempts, e)
                self.retries += 1
                await asyncio.sleep(WAITS.delay(attempt, self._uniform()))
            else:
                self._first = index
                return chain
        raise AssertionError("unreachable")

    def _message(self, csr: bytes) -> bytes:
        request = ca_pb2.CertificateRequest(csr=csr.decode(), validity_duration=int(self._config.ttl))
        request.metadata.update({"CertSigner": self._config.cert_signer})
        return request.SerializeToString()

    async def _call(
        self, address: str, message: bytes, token: str, own: tuple[bytes, bytes] | None, deadline: float, attempt: int
    ) -> list[str]:
        peer = self._config.ca
        metadata = peers.metadata(peer, token)
        if attempt:
            metadata.append(("x-retry-attempty", str(attempt)))  # sic
        try:
            async with asyncio.timeout(deadline), await peers.open_link(peer, address, own) as link:
                raw = await link.unary(METHOD, message, metadata)  # no deadline on the wire, as with istio
            return list(ca_pb2.CertificateResponse.FromString(raw).cert_chain)
        except TimeoutError as e:
            raise self._failure(RpcError(Code.DEADLINE_EXCEEDED), address, deadline) from e
        except RpcError as e:
            raise self._failure(e, address, deadline) from e
        except DecodeError as e:
            raise AttemptError("bad_chain", f"the answer of the CA {address} cannot be decoded") from e

    def _failure(self, e: RpcError, address: str, deadline: float) -> AttemptError:
        code, details = e.code, e.message
        reason = code.name.lower()
        if code is Code.DEADLINE_EXCEEDED:
            place = peers.place(self._config.ca, address)
            return AttemptError(reason, f"the CA {place} did not answer within {deadline:.0f} s")
        if code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
            return Denied(reason, f"the CA {address} refuses the credential ({reason}: {details})")
        if code is Code.UNAVAILABLE:
            return _Passing(reason, f"cannot reach the CA: {peers.explain(self._config.ca, address, e)}")
        sentence = f"the CA {address} failed: {reason}: {details}"
        return _Passing(reason, sentence) if code in PASSING else AttemptError(reason, sentence)


class _Passing(AttemptError):
    """A failure that is worth another attempt at once."""
