"""Gateways and waypoints with the real Envoy: start, probes, traffic, drain; and two proxies on one host."""

import http.client
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.lab import listeners, transport
from agent.lab.mesh import Mesh
from agent.lab.resources import Node
from agent.lab.session import LDS, Snapshot, resource
from tests.fakes.cluster import IP, Cluster, plain_outside
from tests.fakes.container import ENVOY, proxy
from tests.fakes.envoy import wait_for
from tests.fakes.pod import Pod

pytestmark = [pytest.mark.root, pytest.mark.envoy]

PORT = 8090
DRAIN = '{"terminationDrainDuration": "30s"}'  # longer than anything here: what drains is ended by an order


def world(mesh: Mesh, node: Node) -> Snapshot:
    """Everybody but a sidecar gets one listener, a bound one, that leads to b."""
    found = plain_outside(mesh, node)
    if node.role == "sidecar":
        return found
    entry = listeners.outbound(mesh, next(service for service in mesh.services if service.name == "b"))
    entry.name, entry.bind_to_port = f"0.0.0.0_{PORT}", True
    entry.address = transport.address("0.0.0.0", PORT)
    return {**found, LDS: {entry.name: resource(entry.name, bytes(entry))}}


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("r"), world) as made:
        yield made


def upstream_envoy(folder: Path) -> Path:
    """The real Envoy behind a script that takes the extension away which only istio's build of Envoy has."""
    script = folder / "upstream.py"
    script.write_text(f"""#!{sys.executable} -IS
import json, os, sys
path = sys.argv[sys.argv.index("-c") + 1]
with open(path) as file:
    config = json.load(file)
kept = [e for e in config["bootstrap_extensions"] if e["name"] != "metadata_discovery"]
assert len(kept) == len(config["bootstrap_extensions"]) - 1
config["bootstrap_extensions"] = kept
with open(path + ".upstream", "w") as file:
    json.dump(config, file)
os.execv({str(ENVOY)!r}, [sys.argv[0], *(a + ".upstream" if a == path else a for a in sys.argv[1:])])
""")
    script.chmod(0o755)
    return script


def bootstrap(pod: Pod) -> dict[str, Any]:
    """What Envoy itself says that it was started with."""
    dump = json.loads(pod.http(15000, "/config_dump")[1])
    found = next(part["bootstrap"] for part in dump["configs"] if "bootstrap" in part)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("role", ["router", "waypoint"])
def test_a_gateway_lives_and_drains_every_listener(cluster: Cluster, role: str) -> None:
    # Names are captured for sidecars only, and waypoints speak delta whatever is asked for.
    variables = {"ISTIO_META_DNS_CAPTURE": "true", "PROXY_CONFIG": DRAIN}
    if role == "waypoint":
        variables["ISTIO_DELTA_XDS"] = "false"
    envoy = ENVOY if role == "router" else upstream_envoy(cluster.folder)
    pod = Pod(cluster, proxy(role, **variables), envoy=envoy)
    pod.start()
    pod.wait_ready()
    assert cluster.istiod.nodes == [f"{role}~{IP}~web.demo~demo.svc.cluster.local"]
    assert cluster.probe(15020, "/healthz/ready") == 200
    assert cluster.probe(15090, "/stats/prometheus") == 200
    started = bootstrap(pod)
    assert started["node"]["id"].startswith(f"{role}~")
    assert started["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    patterns = started["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    assert ({"prefix": "workload_discovery"} in patterns) is (role == "waypoint")
    assert cluster.resolve("b.demo.svc.cluster.local") == ""
    assert cluster.istiod.nacks == []

    client = http.client.HTTPConnection(IP, PORT, timeout=5)
    cluster.infra.call(client.connect)
    assert call(client) == (200, None)
    os.kill(pod.pid, signal.SIGTERM)
    wait_for(lambda: "Envoy drains its listeners" in pod.log.read_text())
    assert pod.http(15020, "/healthz/ready") == (503, "server is terminated: SIGTERM\n")
    assert cluster.probe(15021, "/healthz/ready") == 503
    # A client is served to the last, and told to go elsewhere: a gateway drains what is outbound for its Envoy.
    assert call(client) == (200, "close")
    client.close()
    status, out, err = pod.quit()
    assert (status, err) == (0, "")
    assert "Traceback" not in out


def call(client: http.client.HTTPConnection) -> tuple[int, str | None]:
    client.request("GET", "/")
    answer = client.getresponse()
    answer.read()
    return answer.status, answer.getheader("connection")


def test_two_proxies_on_one_host(cluster: Cluster) -> None:
    """A gateway beside a sidecar: two agents, two Envoys, one network. What happens to one is nothing to the other."""
    first = Pod(cluster, proxy("sidecar", PROXY_CONFIG=DRAIN))
    second = Pod(
        cluster,
        proxy(
            "router",
            PROXY_CONFIG='{"statusPort": 16020, "proxyAdminPort": 16000, "terminationDrainDuration": "0.1s"}',
            ENVOY_STATUS_PORT="16021",
            ENVOY_PROMETHEUS_PORT="16090",
        ),
        name="q",
    )
    first.start()
    second.start()
    first.wait_ready()
    second.wait_ready(16021)
    assert sorted(node.partition("~")[0] for node in cluster.istiod.nodes) == ["router", "sidecar"]
    calm = first.envoy_pid()
    os.kill(second.envoy_pid(), signal.SIGKILL)
    wait_for(lambda: "Envoy was restarted in place" in second.log.read_text())
    assert cluster.probe(15021, "/healthz/ready") == 200
    second.wait_ready(16021)
    assert cluster.infra.call(lambda: call(http.client.HTTPConnection(IP, PORT, timeout=5))) == (200, None)
    assert [cluster.probe(port, "/stats/prometheus") for port in (15090, 16090)] == [200, 200]
    assert second.terminate()[0] == 0
    assert first.envoy_pid() == calm
    assert cluster.probe(15021, "/healthz/ready") == 200
    assert cluster.istiod.nacks == []
    assert first.quit()[0] == 0
