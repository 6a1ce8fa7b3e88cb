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
from agent.identity.credentials import WITH_PROVISIONED, WITH_TOKEN, Kind, advice
from agent.protos import ca_pb2
from agent.rpc.dial import DialError, Why
from agent.rpc.status import Code, RpcError
from agent.text import scrub

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
Pair = tuple[bytes, bytes]  # key PEM, chain PEM


class Denied(AttemptError):
    """The CA does not believe or permit the credential; `certificate`: it was the client certificate, in TLS."""

    def __init__(self, reason: str, message: str, certificate: bool = False) -> None:
        super().__init__(reason, message)
        self.certificate = certificate


class Late(AttemptError):
    """The CA took the call and did not answer in time."""


class CaClient:
    """Asks for certificates. Every attempt is a new connection, so that roots, certificate and token are fresh."""

    def __init__(self, config: IdentityConfig, uniform: Callable[[], float] = random.random) -> None:
        self._config = config
        self._uniform = uniform
        self._first = 0  # index of the address that worked last
        self.retries = 0  # outgoing calls that were repetitions, since start

    async def sign(self, csr: bytes, kind: Kind, own: Pair | None, deadline: float) -> list[str]:
        """The chain for `csr` (PEM), as the CA sent it. `deadline` seconds bound one attempt.

        `kind` is what to show; `own` is the pair of Kind.CERTIFICATE.
        Raises AttemptError with a sentence; its subclass Denied when the credential was refused, Late after `deadline`.
        """
        addresses = self._config.ca.addresses
        if not addresses:
            raise AttemptError("no_address", "no address of a CA is configured")
        message = self._message(csr)
        attempts = max(ATTEMPTS, len(addresses))
        for attempt in range(attempts):
            index = (self._first + attempt) % len(addresses)
            try:
                chain = await self._call(addresses[index], message, kind, own, deadline, attempt)
            except Late:
                self._first = (index + 1) % len(addresses)
                raise
            except _Passing as e:
                if attempt + 1 == attempts:
                    raise self._given_up(e, kind) from e
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
        self, address: str, message: bytes, kind: Kind, own: Pair | None, deadline: float, attempt: int
    ) -> list[str]:
        ca = self._config.ca
        token = self._token() if kind in WITH_TOKEN else ""
        pair = own if kind is Kind.CERTIFICATE else None
        if kind in WITH_PROVISIONED and not ca.plaintext:
            pair = peers.read_client_pair(ca)
        metadata = peers.metadata(ca, token)
        if attempt:
            metadata.append(("x-retry-attempty", str(attempt)))  # sic
        try:
            async with asyncio.timeout(deadline), await peers.open_link(ca, address, pair) as link:
                raw = await link.unary(METHOD, message, metadata)  # no deadline on the wire, as with istio
            return list(ca_pb2.CertificateResponse.FromString(raw).cert_chain)
        except TimeoutError as e:
            late = f"the CA {peers.place(ca, address)} did not answer within {deadline:.3g} s"
            raise Late("deadline_exceeded", late) from e
        except RpcError as e:
            e.message = scrub(e.message, token, *ca.headers.values())  # servers echo what they do not like
            raise self._failure(e, address, kind, pair is not None) from e
        except DecodeError as e:
            raise AttemptError("bad_chain", f"the answer of the CA {address} cannot be decoded") from e

    def _token(self) -> str:
        """As it is now: a token may be replaced, or end, between two calls. Raises AttemptError."""
        if token := peers.current_token(self._config.ca):
            return token
        raise AttemptError("token", f"the token {self._config.ca.token_file} has become empty")

    def _failure(self, e: RpcError, address: str, kind: Kind, shown: bool) -> AttemptError:
        """`shown`: with a client certificate."""
        ca, code = self._config.ca, e.code
        reason = code.name.lower()
        if not e.heard:
            sentence = f"cannot reach the CA: {peers.explain(ca, address, e)}"
            if peers.about_certificate(e):
                return self._denied("client_certificate", sentence, kind, shown)
            # Whoever does not believe a certificate may hang up without a word, in TLS 1.3 after our handshake.
            return _Passing(reason, sentence, shown and (not isinstance(e, DialError) or e.why is Why.TLS))
        if code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED):
            return self._denied(reason, f"the CA {address} refuses the credential ({reason}: {e.message})", kind, False)
        sentence = f"the CA {address} failed: {reason}: {e.message}"
        return _Passing(reason, sentence) if code in PASSING else AttemptError(reason, sentence)

    def _denied(self, reason: str, sentence: str, kind: Kind, certificate: bool) -> Denied:
        ca = self._config.ca
        return Denied(reason, f"{sentence}; {advice(kind, ca.token_file, ca.cert_file, certificate)}", certificate)

    def _given_up(self, e: "_Passing", kind: Kind) -> AttemptError:
        return self._denied(e.reason, str(e), kind, True) if e.suspect else AttemptError(e.reason, str(e))


class _Passing(AttemptError):
    """A failure that is worth another attempt at once. `suspect`: it may be the client certificate."""

    def __init__(self, reason: str, message: str, suspect: bool = False) -> None:
        super().__init__(reason, message)
        self.suspect = suspect
