"""The call to the CA: istio.v1.auth.IstioCertificateService/CreateCertificate, retried as istio's agent does."""

import asyncio
import random
from collections.abc import Callable

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from agent import logs
from agent import peer as peers
from agent.backoff import Backoff
from agent.config import IdentityConfig
from agent.errors import AttemptError
from agent.protos import ca_pb2

log = logs.scope("citadelclient")

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
ATTEMPTS = 5
WAITS = Backoff(initial=0.1, cap=0.8, factor=2.0, jitter=0.1)
PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
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
        self._used: grpc.aio.Channel | None = None  # the answer came over it; closing it can wait
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

    async def close(self) -> None:
        """End the connection of the last answer; call it when what came over it is in use."""
        used, self._used = self._used, None
        if used is not None:
            await used.close()

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
        channel = await peers.open_channel(peer, address, own)
        try:
            raw = await channel.unary_unary(METHOD)(message, metadata=metadata, timeout=deadline)
            chain = list(ca_pb2.CertificateResponse.FromString(raw).cert_chain)
            self._used, channel = channel, None
            return chain
        except grpc.aio.AioRpcError as e:
            raise self._failure(e, address, deadline) from e
        except DecodeError as e:
            raise AttemptError("bad_chain", f"the answer of the CA {address} cannot be decoded") from e
        finally:
            if channel is not None:
                await channel.close()

    def _failure(self, e: grpc.aio.AioRpcError, address: str, deadline: float) -> AttemptError:
        code, details = e.code(), e.details() or ""
        reason = code.name.lower()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return AttemptError(reason, f"the CA {address} did not answer within {deadline:.0f} s")
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return Denied(reason, f"the CA {address} refuses the credential ({reason}: {details})")
        if code is grpc.StatusCode.UNAVAILABLE:
            return _Passing(reason, f"cannot reach the CA: {peers.explain(self._config.ca, address, details)}")
        sentence = f"the CA {address} failed: {reason}: {details}"
        return _Passing(reason, sentence) if code in PASSING else AttemptError(reason, sentence)


class _Passing(AttemptError):
    """A failure that is worth another attempt at once."""
