"""A small real CA: roots and certificates, and a TLS gRPC server that issues them as well as a test wants it to."""

import base64
import datetime as dt
import ipaddress
import math
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from agent.protos import ca_pb2

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
PEM = serialization.Encoding.PEM
SERVER_NAME = "istiod.istio-system.svc"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _time(seconds_from_now: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds_from_now)


def digest(key: Key) -> hashes.HashAlgorithm:
    """What goes with that issuer's key, as Go chooses it."""
    large = isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256
    return hashes.SHA384() if large else hashes.SHA256()


class Root:
    """One issuing certificate: a self-signed root, or an intermediate made by `Root.intermediate`."""

    def __init__(
        self,
        name: str = "root",
        *,
        days: float = 30,
        parent: "Root | None" = None,
        is_ca: bool = True,
        path_length: int | None = None,
        key: Key | None = None,
    ) -> None:
        self.key = key or new_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        issuer = parent or self
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(-86400 * 60))
            .not_valid_after(_time(86400 * days))
            .add_extension(x509.BasicConstraints(is_ca, path_length if is_ca else None), critical=True)
            .sign(issuer.key, digest(issuer.key))
        )
        self.pem = self.certificate.public_bytes(PEM)

    def intermediate(self, name: str, **options: Any) -> "Root":
        return Root(name, parent=self, **options)

    def issue(
        self, public_key: Any, names: list[x509.GeneralName], ttl: float = 3600.0, not_before: float = -10.0
    ) -> bytes:
        """A leaf as PEM; `ttl` and `not_before` are seconds from now."""
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(not_before))
            .not_valid_after(_time(ttl))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, digest(self.key))
            .public_bytes(PEM)
        )

    def workload(self, identity: str, ttl: float = 3600.0, not_before: float = -10.0) -> tuple[bytes, bytes]:
        """(key PEM, leaf PEM) for one SPIFFE URI."""
        key = new_key()
        return key_pem(key), self.issue(key.public_key(), [x509.UniformResourceIdentifier(identity)], ttl, not_before)

    def server(self, *names: str, ttl: float = 3600.0) -> tuple[bytes, bytes]:
        """(key PEM, leaf PEM) for DNS names and IP addresses."""
        general: list[x509.GeneralName] = []
        for name in names:
            try:
                general.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                general.append(x509.DNSName(name))
        key = new_key()
        return key_pem(key), self.issue(key.public_key(), general, ttl, -86400.0)


def strange_version(root: Root) -> bytes:
    """The root's certificate (PEM) with a version that does not exist; its parser's error is no ValueError."""
    der = root.certificate.public_bytes(serialization.Encoding.DER)
    wrong = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020105"), 1)
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(wrong) + b"-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class Call:
    """One CSR as the CA saw it."""

    request: Any  # ca_pb2.CertificateRequest
    metadata: dict[str, str]
    client: str  # the SPIFFE URI of the client certificate, "" without one

    @property
    def csr(self) -> x509.CertificateSigningRequest:
        return x509.load_pem_x509_csr(self.request.csr.encode())


class Deny(Exception):
    def __init__(self, code: grpc.StatusCode, details: str = "denied by the test") -> None:
        self.code, self.details = code, details


Answer = Callable[["FakeCa", Call], list[str] | bytes]  # the chain, or the bytes of the whole answer


def lasting(seconds: float) -> Answer:
    """The honest answer with a leaf that lives for `seconds` and up to one more: X.509 knows whole seconds only."""

    def answer(ca: "FakeCa", call: Call) -> list[str]:
        now = time.time()
        return ca.sign(call, math.ceil(now + seconds) - now)

    return answer


class FakeCa:
    """A CA on 127.0.0.1; `answer` decides what each call gets and may raise Deny; `calls` keeps what it saw."""

    def __init__(
        self,
        root: Root | None = None,
        *,
        ttl: float = 3600.0,
        tls: bool = True,
        server_root: Root | None = None,
        names: tuple[str, ...] = (SERVER_NAME,),
        server_ttl: float = 3600.0,
        demand_client: bool = False,
    ) -> None:
        self.root = root or Root()
        self.ttl = ttl
        self.answer: Answer = FakeCa.sign
        self.calls: list[Call] = []
        self.port = 0
        self._tls = tls
        self._pair = (server_root or self.root).server(*names, ttl=server_ttl)
        self._demand_client = demand_client
        self._server: grpc.Server | None = None
        self._released = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def sign(self, call: Call, ttl: float | None = None) -> list[str]:
        """The honest answer: [leaf, root] with the names of the request."""
        csr = call.csr
        names = list(csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        return [
            self.root.issue(csr.public_key(), names, self.ttl if ttl is None else ttl).decode(),
            self.root.pem.decode(),
        ]

    def deny(self, code: grpc.StatusCode, times: int | None = None) -> None:
        """Refuse the next `times` calls (None: all until `heal`), then be honest."""
        start = len(self.calls)

        def answer(ca: FakeCa, call: Call) -> list[str]:
            if times is not None and len(ca.calls) > start + times:
                return FakeCa.sign(ca, call)
            raise Deny(code)

        self.answer = answer

    def hang(self) -> None:
        """Answer nothing until `heal` or `stop`."""
        self._released.clear()

        def answer(ca: FakeCa, call: Call) -> list[str]:
            ca._released.wait(30)
            return FakeCa.sign(ca, call)

        self.answer = answer

    def heal(self) -> None:
        self.answer = FakeCa.sign
        self._released.set()

    def _create(self, raw: bytes, context: Any) -> bytes:
        sans = context.auth_context().get("x509_subject_alternative_name", [])
        uris = [s.decode() for s in sans if s.startswith(b"spiffe://")]
        call = Call(
            ca_pb2.CertificateRequest.FromString(raw), dict(context.invocation_metadata()), uris[0] if uris else ""
        )
        self.calls.append(call)
        try:
            chain = self.answer(self, call)
        except Deny as e:
            context.abort(e.code, e.details)
        if isinstance(chain, bytes):
            return chain
        return ca_pb2.CertificateResponse(cert_chain=chain).SerializeToString()

    def start(self) -> "FakeCa":
        """Bind 127.0.0.1, the former port if there was one."""
        create = grpc.unary_unary_rpc_method_handler(self._create)

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return create if details.method == METHOD else None

        options = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)]
        server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Handlers()], options=options)
        if self._tls:
            credentials = grpc.ssl_server_credentials(
                [self._pair],
                root_certificates=self.root.pem if self._demand_client else None,
                require_client_auth=self._demand_client,
            )
            self.port = server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        else:
            self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        self._released.set()
        if self._server is not None:
            self._server.stop(0).wait(5)
            self._server = None

    def __enter__(self) -> "FakeCa":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
