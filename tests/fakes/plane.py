"""A small real control plane for tests: ADS of both flavours over TLS, scripted frame by frame, on the test's loop."""

import asyncio
import datetime
import ipaddress
from dataclasses import dataclass, field

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.xds.wire import Flavour

NAME = "istiod.istio-system.svc"
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Authority:
    """One root that issues server and client certificates."""

    def __init__(self, name: str = "root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        self._now = datetime.datetime.now(datetime.UTC)
        builder = self._builder(self._name, 30).public_key(self._key.public_key())
        cert = builder.add_extension(x509.BasicConstraints(True, None), True).sign(self._key, hashes.SHA256())
        self.pem = cert.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, days: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - datetime.timedelta(days=40))
            .not_valid_after(self._now + datetime.timedelta(days=days))
        )

    def issue(self, *names: str, days: int = 1) -> tuple[bytes, bytes]:
        """(key PEM, certificate PEM) for DNS names, IP addresses or URIs; negative `days`: expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([_general_name(name) for name in names])
        cert = (
            self._builder(x509.Name([]), days)
            .public_key(key.public_key())
            .add_extension(san, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return key.private_bytes(encoding, form, serialization.NoEncryption()), cert.public_bytes(encoding)


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(eq=False)
class PlaneStream:
    """One stream as the control plane sees it."""

    flavour: Flavour
    metadata: dict[str, str | bytes]
    connection: str  # the peer's address: differs for every TCP connection
    identities: list[bytes]
    requests: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    reading: asyncio.Event = field(default_factory=asyncio.Event)  # clear it to stop reading
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0  # frames that the peer's flow control let go
    _out: asyncio.Queue[bytes | tuple[grpc.StatusCode, str]] = field(default_factory=asyncio.Queue)

    async def next(self, timeout: float = 10) -> bytes:
        """The next request frame."""
        return await asyncio.wait_for(self.requests.get(), timeout)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._out.put_nowait(frame)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        """End the stream once everything before it is sent."""
        self._out.put_nowait((code, details))

    async def run(self, context: grpc.aio.ServicerContext) -> None:
        self.reading.set()
        reader = asyncio.create_task(self._read(context), name="plane reads")
        try:
            while isinstance(item := await self._out.get(), bytes):
                await context.write(item)
                self.sent += 1
            context.set_code(item[0])
            context.set_details(item[1])
        except grpc.aio.BaseError:
            pass  # the peer has gone
        finally:
            reader.cancel()
            self.closed.set()

    async def _read(self, context: grpc.aio.ServicerContext) -> None:
        while (await self.reading.wait()) and (frame := await context.read()) is not grpc.aio.EOF:
            self.requests.put_nowait(frame)
        self.end()


class FakePlane:
    """`async with FakePlane(authority) as plane`; without an authority it speaks plaintext."""

    def __init__(
        self,
        authority: Authority | None = None,
        *,
        names: tuple[str, ...] = (NAME,),
        days: int = 1,
        client_root: bytes | None = None,
        address: str = "127.0.0.1:0",
    ) -> None:
        self.streams: asyncio.Queue[PlaneStream] = asyncio.Queue()
        self.opened: list[PlaneStream] = []
        self.address = address
        self._credentials = None
        if authority:
            self._credentials = grpc.ssl_server_credentials(
                [authority.issue(*names, days=days)],
                root_certificates=client_root,
                require_client_auth=client_root is not None,
            )
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Also after `stop`, on the same port."""
        self._server = grpc.aio.server(handlers=(_Handlers(self),), options=(*UNLIMITED, ("grpc.so_reuseport", 0)))
        if self._credentials:
            port = self._server.add_secure_port(self.address, self._credentials)
        else:
            port = self._server.add_insecure_port(self.address)
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """At once, as if killed."""
        if self._server:
            await self._server.stop(grace=0)
            self._server = None

    async def next_stream(self, timeout: float = 10) -> PlaneStream:
        return await asyncio.wait_for(self.streams.get(), timeout)

    async def __aenter__(self) -> "FakePlane":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, plane: FakePlane) -> None:
        def method(flavour: Flavour) -> grpc.RpcMethodHandler:
            async def serve(_: object, context: grpc.aio.ServicerContext) -> None:
                metadata = {pair[0]: pair[1] for pair in context.invocation_metadata() or ()}
                identities = list(context.peer_identities() or ())
                stream = PlaneStream(flavour, metadata, context.peer(), identities)
                plane.opened.append(stream)
                plane.streams.put_nowait(stream)
                await stream.run(context)

            return grpc.stream_stream_rpc_method_handler(serve)

        self._methods = {flavour.value: method(flavour) for flavour in Flavour}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._methods.get(details.method)
