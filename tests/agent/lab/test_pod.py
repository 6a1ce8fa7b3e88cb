"""What a pod's agent is told; the pod itself: tests/netns/test_lab_net.py."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from agent.lab.mesh import Mesh, Service, Workload
from agent.lab.net import Namespace
from agent.lab.pod import INIT_ARGS, Pod, Shared
from init.config import parse

SHARED = Shared(
    python="python3",
    envoy=Path("/opt/envoy"),
    needed=(),
    work=Path("/run/lab"),
    logs=Path("/run/logs"),
    environ={"PATH": "/bin"},
    nameserver="10.77.0.3",
    plane="istiod.istio-system.svc:15012",
    ca="istiod.istio-system.svc:15013",
    secrets=Path("/run/lab/plane"),
    secret_ttl="20s",
)
WORKLOAD = Workload("b", "demo", "sa-b", "10.77.0.12", "b")
MESH = Mesh(services=(Service("b", "demo", "10.96.0.2", 80, 9090),), workloads=(WORKLOAD,))


@pytest.fixture
def pod() -> Pod:
    return Pod(MESH, WORKLOAD, Namespace("rl1-b", WORKLOAD.ip), SHARED)


def test_the_agent_gets_what_the_webhook_gives(pod: Pod) -> None:
    environ = pod.environ()
    config = json.loads(environ["PROXY_CONFIG"])
    assert config["binaryPath"] == "/opt/envoy"
    assert config["discoveryAddress"] == SHARED.plane
    assert (environ["POD_NAME"], environ["POD_NAMESPACE"], environ["SERVICE_ACCOUNT"]) == ("b", "demo", "sa-b")
    assert environ["INSTANCE_IP"] == "10.77.0.12"
    assert environ["SECRET_TTL"] == "20s"
    assert environ["PATH"] == "/bin"


def test_the_guard_is_told_what_the_init_container_was(pod: Pod) -> None:
    words = shlex.split(pod.environ()["REDIRECT_ARGS"])
    assert tuple(words) == INIT_ARGS
    parse(words, {"ISTIO_META_DNS_CAPTURE": "true"})


def test_the_application_listens_where_the_service_points(pod: Pod) -> None:
    assert pod.port == 9090
    lonely = Pod(MESH, replace(WORKLOAD, service=""), pod.namespace, SHARED)
    assert lonely.port == 8080


def test_nothing_runs_before_it_is_started(pod: Pod) -> None:
    assert pod.processes() == []
    assert pod.envoy_pid() is None
    pod.close()
