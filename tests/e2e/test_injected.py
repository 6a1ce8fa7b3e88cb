"""Pods as istio's injection webhook makes them: nobody changes an argument, a variable, a mount, a hook or a probe."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy_data_plane.envoy.config.listener.v3 import Listener

from agent.config import AgentConfig
from agent.envoy.args import envoy_args
from agent.envoy.bootstrap import render
from agent.lab.mesh import Mesh
from agent.lab.resources import Node
from agent.lab.session import LDS, Snapshot, resource
from agent.settings.load import load
from init import config as init_config
from init.plan import plan
from init.rules import render as rules_text
from tests.fakes.cluster import IP, VIP, Cluster, plain_outside
from tests.fakes.container import ENVOY, Container, expand
from tests.fakes.pod import Pod, downward

FACTS = yaml.safe_load(Path(__file__).with_name("injected.yaml").read_text())
VARIANTS: dict[str, Any] = FACTS["variants"]
LIMITS = FACTS["pod"]["limits"]
WITH_ENVOY = [name for name in VARIANTS if name != "proxyless"]


def loaded(name: str) -> AgentConfig:
    """The configuration of a variant, read from its arguments, variables and files."""
    facts = VARIANTS[name]
    proxy = Container(**facts["proxy"])
    environ = proxy.environ(LIMITS)
    files = {
        "./etc/istio/pod/labels": downward(facts["labels"]).encode(),
        "./etc/istio/pod/annotations": downward(facts["annotations"]).encode(),
        "./var/run/secrets/istio/root-cert.pem": b"root",
    }
    words = expand(proxy.args, environ)
    assert words[0] == "proxy"
    return load(
        words[1:],
        environ,
        files.get,
        lambda _: (IP,),
        probe_socket=lambda _: False,
        ask=lambda *_: (0, ""),
        uid=proxy.user,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_what_the_arguments_variables_and_files_say(name: str) -> None:
    config = loaded(name)
    assert config.warnings == ()
    assert config.notes == ()
    assert config.node.id == f"sidecar~{IP}~web.demo~demo.svc.cluster.local"
    assert config.node.spiffe_id == "spiffe://cluster.local/ns/demo/sa/web"
    assert config.identity is not None
    assert config.identity.ca.addresses == config.xds.plane.addresses == ("istiod.istio-system.svc:15012",)
    assert config.envoy.enabled is (name != "proxyless")
    assert config.dns.enabled is (name == "dns")
    assert config.envoy.termination_drain_duration == (2.0 if name == "dns" else 5.0)
    assert config.bootstrap.concurrency == (0 if name == "proxyless" else 2)
    assert sorted(config.status.app_probes) == sorted(VARIANTS[name]["app_probes"])
    assert [(target.port, target.path) for target in config.status.scrape] == [(9100, "/metrics")]
    metadata = render(config)["node"]["metadata"]
    assert metadata["POD_PORTS"] == '[{"name":"http","containerPort":8080,"protocol":""}]'
    assert metadata["LABELS"] == VARIANTS[name]["labels"]
    assert metadata["ANNOTATIONS"] == VARIANTS[name]["annotations"]
    assert metadata.get("INTERCEPTION_MODE") == {"tproxy": "TPROXY", "proxyless": None}.get(name, "REDIRECT")


@pytest.mark.envoy
@pytest.mark.parametrize("name", WITH_ENVOY)
def test_envoy_takes_the_bootstrap(name: str, tmp_path: Path) -> None:
    config = loaded(name)
    (tmp_path / "bootstrap.json").write_text(json.dumps(render(config)))
    args = envoy_args(config)
    args[args.index("-c") + 1] = "bootstrap.json"
    done = subprocess.run(
        [ENVOY, "--mode", "validate", *args], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("default", ["-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001", "-A ISTIO_OUTPUT -j ISTIO_REDIRECT"]),
        ("dns", ["--dport 53 -j REDIRECT --to-ports 15053"]),
        ("tproxy", ["-j TPROXY --on-port 15006", "--gid-owner 1337"]),
        (
            "traffic",
            ["-A ISTIO_OUTPUT -d 10.0.0.0/8 -j ISTIO_REDIRECT", "--dport 5432 -j RETURN", "--dport 9100 -j RETURN"],
        ),
    ],
)
def test_what_the_init_container_plans(name: str, rules: list[str]) -> None:
    init = Container(**VARIANTS[name]["init"])
    assert init.args[0] == "istio-iptables"
    planned = rules_text(plan(init_config.parse(init.args[1:], init.environ({}))).v4)
    for rule in rules:
        assert rule in planned, planned


def transparent(mesh: Mesh, node: Node) -> Snapshot:
    """What istiod sends to a pod with interception mode TPROXY."""
    world = plain_outside(mesh, node)
    inbound = Listener.parse(world[LDS]["virtualInbound"].body)
    inbound.transparent = True
    return {**world, LDS: {**world[LDS], "virtualInbound": resource("virtualInbound", bytes(inbound))}}


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("i"), transparent if name == "tproxy" else plain_outside) as made:
        yield made


def made(cluster: Cluster, name: str) -> Pod:
    facts = VARIANTS[name]
    container = Container(**facts["proxy"])
    return Pod(cluster, container, labels=facts["labels"], annotations=facts["annotations"], limits=LIMITS)


@pytest.mark.root
@pytest.mark.envoy
@pytest.mark.parametrize("name", WITH_ENVOY)
def test_the_pod_lives(cluster: Cluster, name: str) -> None:
    """Init container, start, hook, probes, traffic, hook, end: in the kubelet's order, with the real Envoy."""
    facts = VARIANTS[name]
    pod = made(cluster, name)
    pod.init(Container(**facts["init"]))
    pod.start()
    if "after_start" in facts:
        assert pod.exec(*facts["after_start"])[0] == 0
        assert cluster.probe(15021, "/healthz/ready") == 200
    pod.wait_ready(int(facts["ready"]))
    assert [call.metadata["authorization"] for call in cluster.istiod.calls] == ["Bearer token-1"]
    assert cluster.istiod.nodes == [f"sidecar~{IP}~web.demo~demo.svc.cluster.local"]
    assert "envoy_server_live 1\n" in pod.http(15020, "/stats/prometheus")[1].replace("{}", "")
    assert f"Uid:\t{facts['proxy'].get('user', 1337)}\t" in Path(f"/proc/{pod.envoy_pid()}/status").read_text()
    assert "spiffe://cluster.local/ns/demo/sa/web" in pod.http(15000, "/certs")[1]
    assert cluster.resolve("b.demo.svc.cluster.local") == (VIP if name == "dns" else "")
    # b is called, and calls back, through this Envoy.
    assert pod.http(80, "/", VIP) == (200, "ok\n")
    assert cluster.probe(8080, "/") == 200
    seen = pod.http(15000, "/clusters")[1]
    assert re.search(r"^outbound\|80\|\|b\.demo\.svc\.cluster\.local::\S+::rq_success::1$", seen, re.MULTILINE)
    assert re.search(r"^inbound\|8080\|\|::\S+::rq_success::1$", seen, re.MULTILINE)
    assert cluster.istiod.nacks == []
    if "before_stop" in facts:
        assert pod.exec(*facts["before_stop"])[0] == 0
    # The others would drain for 5 s, and no differently.
    status, out, err = pod.terminate() if name in ("dns", "native") else pod.quit()
    assert (status, err) == (0, "")
    assert "Traceback" not in out
    assert "token-1" not in out


@pytest.mark.root
@pytest.mark.parametrize("name", ["proxyless"])
def test_a_pod_without_envoy_lives(cluster: Cluster, name: str) -> None:
    facts = VARIANTS[name]
    pod = made(cluster, name)
    pod.start()
    assert pod.exec(*facts["after_start"])[0] == 0
    assert cluster.probe(int(facts["ready"]), "/healthz/ready") == 200
    inside = Path(f"/proc/{pod.pid}/root")
    bootstrap = json.loads((inside / "etc/istio/proxy/grpc-bootstrap.json").read_text())
    assert bootstrap["node"]["metadata"]["GENERATOR"] == "grpc"
    provider = bootstrap["certificate_providers"]["default"]["config"]
    for key in ("certificate_file", "private_key_file", "ca_certificate_file"):
        assert (inside / provider[key].lstrip("/")).read_text().startswith("-----BEGIN ")
    assert pod.http(15020, "/stats/prometheus")[0] == 200
    status, _, err = pod.terminate()
    assert (status, err) == (0, "")
