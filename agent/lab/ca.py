"""`remora-agent lab ca`: IstioCertificateService over TLS, for a lab token or a certificate of this root."""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from agent import logs
from agent.errors import ConfigError
from agent.lab import serving, setup, tokens
from agent.lab.authority import Authority, parse_csr
from agent.lab.serving import issued_in, read, until_signal
from agent.protos.ca_pb2 import CertificateRequest, CertificateResponse
from agent.rpc.call import ServerCall
from agent.rpc.sending import Limits
from agent.rpc.server import Server
from agent.rpc.status import Code, RpcError

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DEFAULT_TTL = 86400.0
log = logs.scope("ca")
LIMITS = Limits(message=1 << 20)  # bytes of a request


@dataclass(frozen=True, slots=True)
class CaOptions:
    """What the command line said. `ttl` in seconds is an upper bound beside the mesh's own."""

    directory: Path
    listen: str
    ttl: float | None = None
    tokens: Path | None = None  # None: DIR/tokens


class CertificateService:
    """Signs for the identity that a caller proved, whatever its request asks for."""

    def __init__(
        self, authority: Authority, trust_domain: str, ttl: float, issued: Callable[[], Sequence[str]]
    ) -> None:
        self._authority = authority
        self._trust_domain = trust_domain
        self._ttl = ttl
        self._issued = issued

    async def create(self, call: ServerCall) -> None:
        """Serve one call. Raises RpcError."""
        where = call.client
        try:
            response = await self._answer(call, where)
        except RpcError as error:
            labels = {"peer": where, "status": error.code.name, "reason": error.message}
            log.warning("certificate refused", extra={"labels": labels})
            raise
        await call.write(response.SerializeToString())

    async def _answer(self, call: ServerCall, where: str) -> CertificateResponse:
        identity, proof = self._authenticate(call)
        message = await call.read()
        try:
            if message is None:
                raise ValueError("the call carries no request")
            request = CertificateRequest.FromString(message)
            key = parse_csr(request.csr)
        except (DecodeError, ValueError) as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None
        asked = float(request.validity_duration)
        ttl = min(asked, self._ttl) if asked > 0 else self._ttl
        issued = self._authority.workload(
            key, identity.spiffe(self._trust_domain), ttl, time.time(), secrets.randbits(127) | 1
        )
        labels = {
            "identity": identity.spiffe(self._trust_domain),
            "serial": issued.serial,
            "ttl": f"{ttl:g}s",
            "not_after": issued.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "proof": proof,
            "peer": where,
        }
        log.info("certificate issued", extra={"labels": labels})
        return CertificateResponse(cert_chain=issued.chain)

    def _authenticate(self, call: ServerCall) -> tuple[tokens.Identity, str]:
        """(identity, "token" or "certificate"). A presented token decides, also against a valid certificate."""
        if b"authorization" not in call.headers:
            for kind, value in call.certificate.get("subjectAltName", ()):
                if kind == "URI":
                    try:
                        return tokens.from_spiffe(value, self._trust_domain), "certificate"
                    except ValueError as error:
                        raise RpcError(Code.UNAUTHENTICATED, str(error)) from None
        try:
            return tokens.authenticate(serving.metadata(call), self._issued()), "token"
        except ValueError as error:
            raise RpcError(Code.UNAUTHENTICATED, str(error)) from None


class CaServer:
    """The service on one TCP address, with the server certificate and root of a `lab init` folder."""

    def __init__(self, options: CaOptions) -> None:
        self._options = options
        self._server: Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Bind. Raises ConfigError for unusable files, FatalError when the address cannot be bound."""
        folder = self._options.directory
        authority = Authority(
            read(folder / setup.ROOT_KEY, "the root key"), read(folder / setup.ROOT_CERT, "the root certificate")
        )
        trust_domain, bounds = self._policy()
        ttl = min([bound for bound in (self._options.ttl, bounds) if bound is not None], default=DEFAULT_TTL)
        issued = issued_in(self._options.tokens or folder / setup.TOKENS)
        service = CertificateService(authority, trust_domain, ttl, issued)
        context = serving.tls(folder / setup.SERVER_CERT, folder / setup.SERVER_KEY, folder / setup.ROOT_CERT)
        listener = serving.listen(self._options.listen)
        self.port = listener.getsockname()[1]
        self._server = Server({METHOD: service.create}, LIMITS, context=context)
        self._server.adopt(listener)
        log.info("serving", extra={"labels": {"address": self._options.listen, "ttl": f"{ttl:g}s"}})

    async def run(self) -> None:
        """Serve until cancelled."""
        assert self._server is not None, "start() comes first"
        await self._server.run()

    def _policy(self) -> tuple[str, float | None]:
        file = self._options.directory / setup.POLICY
        try:
            policy = json.loads(read(file, "the policy"))
            return str(policy["trust_domain"]), None if policy["ttl"] is None else float(policy["ttl"])
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{file} was not written by `lab init`: run it again") from None


async def serve(options: CaOptions) -> None:
    """The whole process. Raises ConfigError for unusable files and FatalError for a taken address."""
    server = CaServer(options)
    await server.start()
    await until_signal(server.run)
