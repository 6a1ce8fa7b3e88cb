"""Thirty seconds of certificates that live two seconds, renewed every second, under real mTLS traffic and readers.

The length is the point: thirty rotations on either side, while every request is a full handshake of its own between two
real Envoys (no session is resumed: that would skip the certificates), each of which demands the other's identity.
Nothing may fail, nobody may ever be given an expired certificate or half a file.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import envoy
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.fakes.ca import FakeCa, lasting
from tests.fakes.sds_client import SdsClient, secrets
from tests.fakes.workload import Workload, spiffe

ENVOY = Path(envoy.__file__).parent / "_bin" / "envoy"
SECONDS = 30.0
LIFE = 2.0  # of a certificate, and up to one more
CLIENT, SERVER = 10001, 10002
ADMIN = {"a": 19001, "b": 19002}
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
FILTER = "type.googleapis.com/envoy.extensions.filters.network."


def tls(kind: str, peer: str, **more: Any) -> dict[str, Any]:
    """One side of the mTLS connection; it accepts the identity of workload `peer` and no other."""
    api = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
    }

    def secret(name: str) -> dict[str, Any]:
        return {"name": name, "sds_config": {"api_config_source": api, "resource_api_version": "V3"}}

    common = {
        "tls_certificate_sds_secret_configs": [secret("default")],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": spiffe(peer)}}]
            },
            "validation_context_sds_secret_config": secret("ROOTCA"),
        },
    }
    config = {"@type": TLS + kind, "common_tls_context": common, **more}
    return {"name": "tls", "typed_config": config}


def address(port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


def endpoint(name: str, where: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": where}]}]},
    }


def bootstrap(name: str, socket: str) -> dict[str, Any]:
    """`a` wraps every TCP connection into an mTLS one to `b`, which demands a certificate and answers requests."""
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    sds = {
        **endpoint("sds-grpc", {"address": {"pipe": {"path": socket}}}),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    }
    if name == "a":
        proxy = {"@type": FILTER + "tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "b"}
        chain: dict[str, Any] = {"filters": [{"name": "tcp", "typed_config": proxy}]}
        upstream = tls("UpstreamTlsContext", "b", max_session_keys=0)
        clusters = [sds, {**endpoint("b", address(SERVER)), "transport_socket": upstream}]
    else:
        route = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "hello"}}}
        manager = {
            "@type": FILTER + "http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "h",
            "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        chain = {
            "filters": [{"name": "http", "typed_config": manager}],
            "transport_socket": tls(
                "DownstreamTlsContext",
                "a",
                require_client_certificate=True,
                disable_stateless_session_resumption=True,
                disable_stateful_session_resumption=True,
            ),
        }
        clusters = [sds]
    listener = {"name": "l", **address(CLIENT if name == "a" else SERVER), "filter_chains": [chain]}
    return {
        "node": {"id": f"sidecar~127.0.0.1~{name}.demo~demo.svc", "cluster": name},
        "admin": address(ADMIN[name]),
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


@contextmanager
def proxy(folder: Path, name: str, socket: str) -> Any:
    config, log = folder / f"{name}.json", folder / f"{name}.log"
    config.write_text(json.dumps(bootstrap(name, socket)))
    command = [str(ENVOY), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def stats(name: str) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN[name]}/stats", timeout=5) as response:
        rows = (line.split(": ", 1) for line in response.read().decode().splitlines() if ": " in line)
        return {key: int(value) for key, value in rows if value.isdigit()}


def check(chain: bytes, key: bytes) -> None:
    leaf = x509.load_pem_x509_certificate(chain)
    assert leaf.public_key() == serialization.load_pem_private_key(key, None).public_key(), "another key"
    assert time.time() < leaf.not_valid_after_utc.timestamp(), "an expired certificate was given out"


class Soak:
    """What is done to the two workloads, and what came of it."""

    def __init__(self, workloads: dict[Path, Workload]) -> None:
        """`workloads` by the folders that they write their certificates to."""
        self.workloads = workloads
        self.end = time.monotonic() + SECONDS
        self.requests = self.pushes = self.visits = self.reads = self.between = 0
        self.failures: list[str] = []

    @property
    def going(self) -> bool:
        return time.monotonic() < self.end

    def counts(self) -> str:
        numbers = {n: getattr(self, n) for n in ("requests", "pushes", "visits", "reads", "between")}
        return ", ".join(f"{count} {name}" for name, count in numbers.items()) + " two renames"

    async def traffic(self) -> None:
        """Requests on a new connection each, hence a full handshake each."""
        while self.going:
            try:
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection("127.0.0.1", CLIENT)
                    writer.write(b"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
                    answer = await reader.readuntil(b"hello")
                    writer.close()
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as e:
                answer = repr(e).encode()
            self.requests += 1
            if not answer.startswith(b"HTTP/1.1 200"):
                self.failures.append(f"request {self.requests}: {answer[:200]!r}")
            await asyncio.sleep(0.005)

    async def rotate(self, workload: Workload) -> None:
        while self.going:
            await asyncio.sleep(1.0)
            workload.manager.renew_now()

    async def follow(self, workload: Workload) -> None:
        """A stream that stays."""
        async with SdsClient(workload.socket) as client:
            await client.ask("default")
            while self.going:
                secret = await client.follow("default")
                check(
                    secret.tls_certificate.certificate_chain.inline_bytes,
                    secret.tls_certificate.private_key.inline_bytes,
                )
                self.pushes += 1

    async def visit(self, workload: Workload) -> None:
        """Streams that come and go."""
        while self.going:
            async with SdsClient(workload.socket) as client:
                await client.ask("default", "ROOTCA")
                found = secrets(await client.receive())
                tls = found["default"].tls_certificate
                check(tls.certificate_chain.inline_bytes, tls.private_key.inline_bytes)
                assert found["ROOTCA"].validation_context.trusted_ca.inline_bytes
                self.visits += 1
            await asyncio.sleep(0.1)

    def read(self, output: Path) -> None:
        """In a thread: reads OUTPUT_CERTS: whole files always, a pair at most one rename apart, under that root."""
        apart: list[bytes] = []
        while self.going:
            found = [(output / name).read_bytes() for name in ("key.pem", "cert-chain.pem", "root-cert.pem")]
            private = serialization.load_pem_private_key(found[0], None, unsafe_skip_rsa_key_validation=True)
            leaf = x509.load_pem_x509_certificate(found[1])
            leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(found[2]))
            matches = private.public_key() == leaf.public_key()
            if apart and not matches and found[:2] != apart:
                self.failures.append("key and chain on disk did not match after the next rename either")
                return
            apart = [] if matches else found[:2]
            self.between += not matches
            self.reads += 1
            time.sleep(0.003)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(self.traffic())
            for output, workload in self.workloads.items():
                group.create_task(self.rotate(workload))
                group.create_task(self.visit(workload))
                group.create_task(asyncio.to_thread(self.read, output))
                for _ in range(5):
                    group.create_task(self.follow(workload))


async def scenario(folder: Path) -> None:
    with FakeCa() as ca, ExitStack() as proxies:
        ca.answer = lasting(LIFE)
        outputs = {name: folder / f"{name}.out" for name in ADMIN}
        workloads = [
            Workload(folder, ca, name, ecdsa=name == "b", output=str(output)) for name, output in outputs.items()
        ]
        async with AsyncExitStack() as stack:
            for workload in workloads:
                await stack.enter_async_context(workload.running())
            for workload, name in zip(workloads, "ab", strict=True):
                await workload.secret.until(lambda s: s is not None)
                proxies.enter_context(proxy(folder, name, workload.socket))
            await until_served(folder)
            before = {name: stats_of(name, await asyncio.to_thread(stats, name)) for name in ADMIN}
            soak = Soak(dict(zip(outputs.values(), workloads, strict=True)))
            await soak.run()
            after = {name: stats_of(name, await asyncio.to_thread(stats, name)) for name in ADMIN}
        for workload in workloads:
            status = workload.manager.status.value
            assert status.renewals >= SECONDS * 0.8, status
            assert status.failures == 0, status
            assert workload.readiness.version == 0, "the certificate expired"
            assert workload.server.ledger.rejects == 0
        assert soak.failures == []
        assert soak.requests > 10 * SECONDS, soak.counts()
        assert soak.pushes > SECONDS * 5
        assert soak.reads > SECONDS * 10, soak.counts()
        for name, found in after.items():
            assert found["errors"] == before[name]["errors"], f"handshakes of {name} failed: {found}"
            assert found["rejected"] == 0
            assert found["resumed"] == 0, "a resumed session is no proof of a certificate"
            assert found["handshakes"] - before[name]["handshakes"] == soak.requests
            assert found["updates"] >= SECONDS * 0.8
        print(f"soak held: {soak.counts()}, {after}")


def stats_of(name: str, found: dict[str, int]) -> dict[str, int]:
    """Handshakes that worked and did not, of the one TLS side of this Envoy; and what its secrets went through."""
    side = "cluster.b.ssl." if name == "a" else "listener.127.0.0.1_10002.ssl."
    bad = ("connection_error", "fail_verify_no_cert", "fail_verify_error", "fail_verify_san", "fail_verify_cert_hash")
    return {
        "handshakes": found[side + "handshake"],
        "resumed": found[side + "session_reused"],
        "errors": sum(found.get(side + what, 0) for what in bad) + found.get("cluster.b.upstream_cx_connect_fail", 0),
        "updates": found["sds.default.update_success"],
        "rejected": sum(found.get(f"sds.{s}.update_rejected", 0) for s in ("default", "ROOTCA")),
    }


async def until_served(folder: Path) -> None:
    """Both Envoys have their secrets and answer."""
    deadline = time.monotonic() + 20
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", CLIENT)
            writer.write(b"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if answer.startswith(b"HTTP/1.1 200"):
                return
        except OSError as e:
            answer = repr(e).encode()
        logs = "".join((folder / f"{name}.log").read_text()[-2000:] for name in ADMIN)
        assert time.monotonic() < deadline, f"{answer!r}\n{logs}"
        await asyncio.sleep(0.05)


@pytest.mark.root
@pytest.mark.envoy
def test_no_handshake_fails_in_thirty_rotations(tmp_path: Path) -> None:
    environ = {**os.environ, "GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    run = ["unshare", "-n", sys.executable, __file__, str(tmp_path)]
    result = subprocess.run(run, capture_output=True, text=True, timeout=110, check=False, env=environ)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    assert "soak held" in result.stdout


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(scenario(Path(sys.argv[1])))
