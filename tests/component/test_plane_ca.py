"""The lab's certificate authority over real TLS: tokens, client certificates, refusals, exit statuses."""

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import ConfigError, FatalError
from agent.lab import setup
from agent.lab.authority import key_pem
from agent.lab.ca import METHOD, CaOptions, CaServer
from agent.lab.mesh import parse
from agent.lab.serving import split_address
from agent.protos.ca_pb2 import CertificateRequest, CertificateResponse
from tests.fakes.ca import Root

MESH = "certificates: {ttl: 2h}\nworkloads: [{name: b, namespace: demo, service_account: acct, ip: 10.77.0.12}]"
IDENTITY = "spiffe://cluster.local/ns/demo/sa/acct"


@dataclass
class World:
    folder: Path
    port: int
    key: ec.EllipticCurvePrivateKey

    @property
    def token(self) -> str:
        return (self.folder / setup.TOKENS / "demo.b").read_text()

    def csr(self) -> str:
        uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cluster.local/ns/kube/sa/root")])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(uri, critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    async def ask(
        self,
        token: str = "",
        csr: str | None = None,
        seconds: int = 86400,
        chain: bytes = b"",
        pair: tuple[bytes, bytes] | None = None,
    ) -> Any:
        """The response, or the status code of the refusal."""
        root = (self.folder / setup.ROOT_CERT).read_bytes()
        own = pair or ((key_pem(self.key), chain) if chain else (None, None))
        credentials = grpc.ssl_channel_credentials(root, *own)
        options = (("grpc.ssl_target_name_override", "istiod.istio-system.svc"), ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options=options) as channel:
            call = channel.unary_unary(METHOD, CertificateRequest.SerializeToString, CertificateResponse.FromString)
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            request = CertificateRequest(csr=self.csr() if csr is None else csr, validity_duration=seconds)
            try:
                return await call(request, metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code()


@asynccontextmanager
async def serving(folder: Path, ttl: float | None = None) -> AsyncIterator[World]:
    setup.initialise(folder, parse(MESH), [])
    server = CaServer(CaOptions(folder, "127.0.0.1:0", ttl))
    await server.start()
    running = asyncio.ensure_future(server.run())
    try:
        yield World(folder, server.port, ec.generate_private_key(ec.SECP256R1()))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def leaf_of(response: CertificateResponse) -> x509.Certificate:
    leaf, root = (x509.load_pem_x509_certificate(pem.encode()) for pem in response.cert_chain)
    leaf.verify_directly_issued_by(root)
    return leaf


def life(leaf: x509.Certificate) -> float:
    return (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds()


def test_the_token_decides_the_identity_and_the_mesh_the_life(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path) as world:
            leaf = leaf_of(await world.ask(world.token))
            san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert san.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]
            assert leaf.public_key() == world.key.public_key()
            assert leaf.not_valid_before_utc < datetime.now(UTC)
            assert 7000 < life(leaf) <= 7200
            assert life(leaf_of(await world.ask(world.token, seconds=60))) <= 60
            assert 7000 < life(leaf_of(await world.ask(world.token, seconds=0))) <= 7200

    asyncio.run(asyncio.wait_for(body(), 30))


def test_the_command_line_bounds_the_life_too(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path, ttl=30) as world:
            assert life(leaf_of(await world.ask(world.token))) <= 30

    asyncio.run(asyncio.wait_for(body(), 30))


def test_an_own_certificate_renews_itself(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path) as world:
            chain = "".join((await world.ask(world.token)).cert_chain).encode()
            renewed = leaf_of(await world.ask(chain=chain))
            san = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert san.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]
            assert await world.ask("lab.demo.acct.guess", chain=chain) is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(asyncio.wait_for(body(), 30))


def test_refusals(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path) as world:
            assert await world.ask() is grpc.StatusCode.UNAUTHENTICATED
            assert await world.ask("lab.demo.acct.guess") is grpc.StatusCode.UNAUTHENTICATED
            assert await world.ask(world.token, csr="garbage") is grpc.StatusCode.INVALID_ARGUMENT
            assert await world.ask(world.token, csr="") is grpc.StatusCode.INVALID_ARGUMENT
            (tmp_path / setup.TOKENS / "demo.b").rename(tmp_path / "withdrawn")
            assert await world.ask((tmp_path / "withdrawn").read_text()) is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(asyncio.wait_for(body(), 30))


def test_strangers_to_the_protocol_keep_nobody_waiting(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path) as world:
            silent, silent_writer = await asyncio.open_connection("127.0.0.1", world.port)
            plain, plain_writer = await asyncio.open_connection("127.0.0.1", world.port)
            plain_writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            with suppress(ConnectionError):
                await plain.read()  # answered with an alert at most, and closed
            other = ssl.create_default_context(cafile=str(tmp_path / setup.ROOT_CERT))
            other.set_alpn_protocols(["http/1.1"])
            with suppress(ConnectionError, ssl.SSLError):
                where, name = ("127.0.0.1", world.port), "istiod.istio-system.svc"
                reader, _ = await asyncio.open_connection(*where, ssl=other, server_hostname=name)
                assert await reader.read() == b""
            leaf_of(await world.ask(world.token))
            foreign = Root("stranger").workload("spiffe://cluster.local/ns/demo/sa/acct")
            assert await world.ask(pair=foreign) is grpc.StatusCode.UNAVAILABLE
            leaf_of(await world.ask(world.token))
        assert await silent.read() == b""  # the end of the server ends it
        silent_writer.close()
        plain_writer.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_a_taken_port_and_a_foreign_folder(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path) as world:
            with pytest.raises(FatalError, match="the address is taken"):
                await CaServer(CaOptions(tmp_path, f"127.0.0.1:{world.port}")).start()
            (tmp_path / setup.POLICY).write_text("{}")
            with pytest.raises(ConfigError, match="not written by `lab init`"):
                await CaServer(CaOptions(tmp_path, "127.0.0.1:0")).start()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_addresses() -> None:
    assert split_address("10.0.0.1:80") == ("10.0.0.1", 80)
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address(":80")[1] == 80
    for bad in ("10.0.0.1", "x:y", "x:70000", ""):
        with pytest.raises(ConfigError, match="is not host:port"):
            split_address(bad)


def test_the_process_logs_and_ends_on_sigterm(tmp_path: Path) -> None:
    setup.initialise(tmp_path, parse(MESH), [])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "agent", "lab", "ca", "--dir", str(tmp_path), "--listen", f"127.0.0.1:{port}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    world = World(tmp_path, port, ec.generate_private_key(ec.SECP256R1()))
    try:
        assert "serving" in child.stdout.readline()
        asyncio.run(asyncio.wait_for(world.ask(world.token), 20))
        asyncio.run(asyncio.wait_for(world.ask("nobody"), 20))
    finally:
        child.terminate()
        out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    assert f"identity={IDENTITY}" in out
    assert "proof=token" in out
    assert "status=UNAUTHENTICATED" in out
