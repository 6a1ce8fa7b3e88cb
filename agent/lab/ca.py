"""`remora-agent lab ca`: IstioCertificateService over TLS, for callers with a lab token or a certificate of this root.

Served by grpclib (a dependency of envoy-data-plane): unlike grpcio it can ask for a client certificate without
demanding one, which is what a workload needs that has either.
"""

import errno
import json
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from agent import logs
from agent.errors import ConfigError, FatalError
from agent.lab import setup, tokens
from agent.lab.authority import Authority, parse_csr
from agent.lab.plane import issued_in, read, until_signal
from agent.protos.ca_pb2 import CertificateRequest, CertificateResponse

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
DEFAULT_TTL = 86400.0
log = logs.scope("ca")
_Call = Stream[CertificateRequest, CertificateResponse]


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

    def __mapping__(self) -> dict[str, Handler]:
        return {METHOD: Handler(self._create, Cardinality.UNARY_UNARY, CertificateRequest, CertificateResponse)}

    async def _create(self, stream: _Call) -> None:
        peer = stream.peer.addr() if stream.peer is not None else None
        where = peer[0] if peer else "unknown"
        try:
            await stream.send_message(await self._answer(stream, where))
        except GRPCError as error:
            labels = {"peer": where, "status": error.status.name, "reason": error.message}
            log.warning("certificate refused", extra={"labels": labels})
            raise

    async def _answer(self, stream: _Call, where: str) -> CertificateResponse:
        identity, proof = self._authenticate(stream)
        try:
            request = await stream.recv_message()
            if request is None:
                raise ValueError("the call carries no request")
            key = parse_csr(request.csr)
        except (DecodeError, ValueError) as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
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

    def _authenticate(self, stream: _Call) -> tuple[tokens.Identity, str]:
        """(identity, "token" or "certificate"). A presented token decides, also against a valid certificate."""
        metadata = list(stream.metadata.items()) if stream.metadata is not None else []
        certificate = stream.peer.cert() if stream.peer is not None else None
        if certificate and not any(key.lower() == "authorization" for key, _ in metadata):
            for kind, value in certificate.get("subjectAltName", ()):
                if kind == "URI":
                    try:
                        return tokens.from_spiffe(value, self._trust_domain), "certificate"
                    except ValueError as error:
                        raise GRPCError(Status.UNAUTHENTICATED, str(error)) from None
        try:
            return tokens.authenticate(metadata, self._issued()), "token"
        except ValueError as error:
            raise GRPCError(Status.UNAUTHENTICATED, str(error)) from None


class CaServer:
    """The service on one TCP address, with the server certificate and root of a `lab init` folder."""

    def __init__(self, options: CaOptions) -> None:
        self._options = options
        self._server: Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Bind and serve. Raises ConfigError for unusable files, FatalError when the address cannot be bound."""
        folder = self._options.directory
        authority = Authority(
            read(folder / setup.ROOT_KEY, "the root key"), read(folder / setup.ROOT_CERT, "the root certificate")
        )
        trust_domain, bounds = self._policy()
        ttl = min([bound for bound in (self._options.ttl, bounds) if bound is not None], default=DEFAULT_TTL)
        issued = issued_in(self._options.tokens or folder / setup.TOKENS)
        server = Server([CertificateService(authority, trust_domain, ttl, issued)])
        host, port = split_address(self._options.listen)
        try:
            await server.start(host, port, ssl=self._tls())
        except OSError as error:
            why = "the address is taken" if error.errno == errno.EADDRINUSE else error.strerror
            raise FatalError(f"cannot listen on {self._options.listen}: {why}") from None
        self._server = server
        self.port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        log.info("serving", extra={"labels": {"address": self._options.listen, "ttl": f"{ttl:g}s"}})

    async def run(self) -> None:
        """Serve until cancelled; then let calls in flight finish."""
        assert self._server is not None, "start() comes first"
        try:
            await self._server.wait_closed()
        finally:
            self._server.close()
            await self._server.wait_closed()

    def _policy(self) -> tuple[str, float | None]:
        file = self._options.directory / setup.POLICY
        try:
            policy = json.loads(read(file, "the policy"))
            return str(policy["trust_domain"]), None if policy["ttl"] is None else float(policy["ttl"])
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{file} was not written by `lab init`: run it again") from None

    def _tls(self) -> ssl.SSLContext:
        folder = self._options.directory
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_cert_chain(folder / setup.SERVER_CERT, folder / setup.SERVER_KEY)
            context.load_verify_locations(folder / setup.ROOT_CERT)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use the server certificate in {folder}: {error}") from None
        return context


def split_address(text: str) -> tuple[str, int]:
    """`0.0.0.0:15013`, `[::]:15013` or `:15013` to host and port. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--listen {text!r} is not host:port")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


async def serve(options: CaOptions) -> None:
    """The whole process. Raises ConfigError for unusable files and FatalError for a taken address."""
    server = CaServer(options)
    await server.start()
    await until_signal(server.run)
