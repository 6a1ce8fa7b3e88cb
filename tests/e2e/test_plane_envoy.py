"""The real Envoy accepts everything the lab's control plane sends, in both flavours, and follows the mesh file."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import envoy
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.lab import setup
from agent.lab.authority import Authority, key_pem
from agent.lab.mesh import parse
from tests.fakes import sds

ENVOY = Path(envoy.__file__).parent / "_bin" / "envoy"
ADMIN = 19000
MESH = """\
trust_domain: cluster.local
mtls: {mtls}
services:
  - {{name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080, headers: {{x-config: {config}}}}}
{more}workloads:
  - {{name: a, namespace: demo, service_account: a, ip: 10.77.0.11}}
  - {{name: b, namespace: demo, service_account: b, ip: 10.77.0.12, service: b}}
"""
C = "  - {name: c, namespace: demo, vip: 10.96.0.3, port: 80, target_port: 9090}\n"


def bootstrap(plane: Path, sds: Path, flavour: str, node: str) -> dict[str, Any]:
    """As small as a sidecar's bootstrap can be: one ADS cluster, one SDS cluster."""

    def pipe(name: str, path: Path) -> dict[str, Any]:
        endpoint = {"endpoint": {"address": {"pipe": {"path": str(path)}}}}
        http2 = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        }

    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    grpc = {"envoy_grpc": {"cluster_name": "xds-grpc"}, "retry_policy": {"retry_back_off": {"base_interval": "0.02s"}}}
    return {
        "node": {"id": node, "cluster": "b.demo"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ADMIN}}},
        "dynamic_resources": {
            "lds_config": source,
            "cds_config": source,
            "ads_config": {
                "api_type": flavour,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [grpc],
            },
        },
        "static_resources": {"clusters": [pipe("xds-grpc", plane), pipe("sds-grpc", sds)]},
    }


@contextmanager
def process(arguments: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        child = subprocess.Popen(arguments, stdout=output, stderr=output, **options)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def until(wanted: Callable[[], Any], what: str, log: Path, seconds: float = 20.0) -> Any:
    """The first true result, asked again and again until a deadline."""
    deadline = time.monotonic() + seconds
    while not (result := wanted()):
        assert time.monotonic() < deadline, f"{what} did not happen; log:\n{log.read_text()[-4000:]}"
        time.sleep(0.02)
    return result


def admin(path: str) -> Any:
    """The admin interface's JSON, or None while there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}{path}", timeout=5) as response:
            return json.load(response)
    except OSError:
        return None


def configured(kind: str) -> dict[str, dict[str, Any]]:
    """Name → active resource of one kind (`listener`, `cluster`, `route_config`) in Envoy's own words."""
    field = {"cluster": "dynamic_active_clusters"}.get(kind, f"dynamic_{kind}s")
    found: dict[str, dict[str, Any]] = {}
    for section in (admin("/config_dump") or {}).get("configs", ()):
        for row in section.get(field, ()):
            assert "error_state" not in row, row
            if body := row.get("active_state", {} if kind == "listener" else row):
                found[body[kind]["name"]] = body[kind]
    return found


def routes() -> str:
    return json.dumps(configured("route_config"))


def counter(name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/stats", timeout=5) as response:
        rows = dict(line.split(": ", 1) for line in response.read().decode().splitlines() if ": " in line)
    return int(rows[name])


def workload_certificate(folder: Path, mesh: str) -> tuple[bytes, bytes, bytes]:
    """(key, chain, root) of workload b, made with the lab's own tools."""
    setup.initialise(folder, parse(mesh), [])
    root = (folder / setup.ROOT_CERT).read_bytes()
    key = ec.generate_private_key(ec.SECP256R1())
    authority = Authority((folder / setup.ROOT_KEY).read_bytes(), root)
    issued = authority.workload(key.public_key(), "spiffe://cluster.local/ns/demo/sa/b", 3600, time.time(), 7)
    return key_pem(key), "".join(issued.chain).encode(), root


def scenario(folder: Path, flavour: str, mtls: str) -> None:
    """Runs inside a private network namespace: the ports of a sidecar are fixed."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    mesh, log = folder / "mesh.yaml", folder / "envoy.log"
    mesh.write_text(MESH.format(mtls=mtls, config="v1", more=""))
    plane_log, sock = folder / "plane.log", folder / "ads.sock"
    config = folder / "envoy.json"
    config.write_text(json.dumps(bootstrap(sock, folder / "sds.sock", flavour, "sidecar~10.77.0.12~b.demo~demo.svc")))
    plane = [
        sys.executable, "-m", "agent", "lab", "plane", "--mesh", str(mesh), "--listen", f"unix:{sock}",
    ]  # fmt: skip
    command = [str(ENVOY), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    key, chain, root = workload_certificate(folder / "pki", mesh.read_text())
    with (
        sds.serving(folder / "sds.sock", key, chain, root),
        process(command, log) as proxy,
        process(plane, plane_log) as first,
    ):
        wanted = {"virtualOutbound", "virtualInbound", "10.96.0.2_80"}
        until(lambda: wanted <= configured("listener").keys(), "every listener", log)
        names = {"outbound|80||b.demo.svc.cluster.local", "inbound|8080||", "PassthroughCluster", "BlackHoleCluster"}
        until(lambda: names <= configured("cluster").keys(), "every cluster", log)
        until(lambda: "v1" in routes(), "the route", log)

        mesh.write_text(MESH.format(mtls=mtls, config="v2", more=C))
        until(lambda: "10.96.0.3_80" in configured("listener"), "the new listener", log)
        until(lambda: "v2" in routes(), "the new header", log)

        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0
        mesh.write_text(MESH.format(mtls=mtls, config="v3", more=""))
        with process(plane, plane_log):
            until(lambda: "v3" in routes(), "the restarted plane's news", log)
            until(lambda: "10.96.0.3_80" not in configured("listener"), "the removal", log)
            # A changed cluster (new identities) warms again, with the endpoints it already had.
            other = MESH.replace("service_account: b", "service_account: other")
            mesh.write_text(other.format(mtls=mtls, config="v4", more=""))
            until(lambda: "v4" in routes(), "the last change", log)
            until(
                lambda: counter("cluster_manager.warming_clusters") == 0,
                "warm clusters",
                log,
            )
            if mtls != "DISABLE":
                cluster = "outbound|80||b.demo.svc.cluster.local"
                until(lambda: "sa/other" in json.dumps(configured("cluster")[cluster]), "the new identity", log)
            for rejected in ("cluster_manager.cds.update_rejected", "listener_manager.lds.update_rejected"):
                assert counter(rejected) == 0
        assert proxy.poll() is None, log.read_text()
    said = plane_log.read_text()
    assert "NACK" not in said, said
    assert "push" in said
    assert "ACK" in said
    print("scenario held")


@pytest.mark.root
@pytest.mark.envoy
@pytest.mark.parametrize(
    ("flavour", "mtls"),
    [("DELTA_GRPC", "STRICT"), ("GRPC", "STRICT"), ("DELTA_GRPC", "PERMISSIVE"), ("GRPC", "DISABLE")],
)
def test_envoy_takes_everything(tmp_path: Path, flavour: str, mtls: str) -> None:
    run = [sys.executable, __file__, str(tmp_path), flavour, mtls]
    result = subprocess.run(["unshare", "-n", *run], capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    assert "scenario held" in result.stdout


if __name__ == "__main__":
    scenario(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
