"""A real mesh with real Envoys whose control plane is away: what Envoy accepted last keeps it going."""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import envoy
import pytest

from agent.lab import process
from agent.lab.observe import until
from agent.lab.options import CA_PORT, PLANE_PORT, Options
from agent.lab.pod import Pod
from agent.lab.probe import http_request
from agent.lab.timeline import loss
from agent.lab.traffic import Log, Request, parse
from agent.lab.world import Lab

pytestmark = [pytest.mark.root, pytest.mark.envoy, pytest.mark.timeout(120)]

ENVOY = Path(envoy.__file__).parent / "_bin" / "envoy"
MESH = """\
trust_domain: cluster.local
mtls: STRICT
services:
  - {name: a, namespace: demo, vip: 10.96.0.1, port: 80, target_port: 8080}
  - {name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080, headers: {x-config: v1}}
"""
C = "  - {name: c, namespace: demo, vip: 10.96.0.3, port: 80, target_port: 9090}\n"
WORKLOADS = """\
workloads:
  - {name: a, namespace: demo, service_account: a, ip: 10.77.0.11, service: a}
  - {name: b, namespace: demo, service_account: b, ip: 10.77.0.12, service: b}
"""
CLUSTER_C = "outbound|80||c.demo.svc.cluster.local"
URL = "http://b.demo.svc.cluster.local/"
LIMIT = 30.0
POD = "(pod)"  # in the value of a variable: the name of the pod


class Mesh:
    """A calls B all the time. Services a, b and c; c is there to go."""

    def __init__(self, lab: Lab, **environ: str) -> None:
        self.lab, self.a, self.b = lab, lab.pods["a"], lab.pods["b"]
        self.environ = environ
        lab.start_ca()
        lab.start_plane()
        lab.wait_listening("ca", CA_PORT)
        lab.wait_listening("plane", PLANE_PORT)
        for pod in (self.a, self.b):
            pod.write_rules()
            pod.start_app()
            self.start_agent(pod)
        until("both pods to be ready", LIMIT, lambda: self.ready(self.a) and self.ready(self.b))
        self.a.run_client("traffic", ["agent.lab.traffic", URL, "0.02"])
        until("a log of requests", LIMIT, self.a.log("traffic").exists)
        self.log = Log(self.a.log("traffic"))
        self.flowing(time.time())

    def start_agent(self, pod: Pod) -> None:
        pod.start_agent(**{name: value.replace(POD, pod.name) for name, value in self.environ.items()})

    def ready(self, pod: Pod) -> bool:
        return http_request(self.lab.node, pod.namespace.ip, 15021, "/healthz/ready").status == 200

    def admin(self, path: str) -> Any:
        return json.loads(http_request(self.a.namespace, "127.0.0.1", 15000, path).body or b"{}")

    def clusters(self) -> set[str]:
        return {row["name"] for row in self.admin("/clusters?format=json").get("cluster_statuses", ())}

    def metric(self, name: str) -> float:
        page = http_request(self.lab.node, self.a.namespace.ip, 15020, "/metrics").body.decode()
        found = re.search(rf"^istio_agent_{name} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else -1.0

    def flowing(self, since: float) -> Request:
        """The first request that began then or later and was answered."""
        until("requests to be answered", LIMIT, lambda: any(r.ok for r in self.log.requests(since)), pause=0.01)
        return min((r for r in self.log.requests(since) if r.ok), key=lambda r: r.end)

    def call(self) -> Request:
        """One request, from looking up the name to the answer."""
        argv = [self.lab.shared.python, "-m", "agent.lab.traffic", URL]
        return parse(process.run(self.a.place(1000), argv, self.lab.environ)[1].splitlines())[0]

    def kill_plane(self) -> None:
        self.lab.infra("plane").kill()
        until("the agent to notice", LIMIT, lambda: "disconnected" in self.a.log("agent").read_text(), pause=0.02)

    def start_plane(self, text: str) -> None:
        self.lab.write_mesh(text)
        self.lab.start_plane()
        self.lab.wait_listening("plane", PLANE_PORT)

    def config_seen(self, value: str, since: float) -> None:
        def seen() -> bool:
            return any(r.headers.get("x-config") == value for r in self.log.requests(since))

        until(f"callers to see x-config: {value}", LIMIT, seen, pause=0.02)


@contextmanager
def mesh(folder: Path, **environ: str) -> Iterator[Mesh]:
    with Lab(Options(MESH + C + WORKLOADS, folder, ENVOY)) as lab:
        yield Mesh(lab, **environ)


@pytest.mark.parametrize("delta", ["true", "false"], ids=["delta", "sotw"])
def test_envoy_is_killed_without_a_control_plane_which_then_returns_changed(tmp_path: Path, delta: str) -> None:
    with mesh(tmp_path, ISTIO_DELTA_XDS=delta) as it:
        assert CLUSTER_C in it.clusters()
        it.kill_plane()
        victim = it.a.envoy_pid()
        assert victim is not None
        process.kill(victim)
        until("a new Envoy", LIMIT, lambda: it.a.envoy_pid() not in (None, victim), pause=0.002)
        back = time.time()
        first = it.flowing(back)
        print(
            f"requests answered {(first.end - back) * 1000:.0f} ms after the new Envoy's exec, without a control plane"
        )
        assert first.end - back < 5.0  # a tenth of that on an idle machine
        assert first.headers["x-config"] == "v1"
        until("readiness", LIMIT, lambda: it.ready(it.a))
        assert CLUSTER_C in it.clusters()
        assert it.metric("xds_stale") == 1
        assert it.metric("xds_cache_resources") > 5

        calm = time.time()
        it.start_plane(MESH.replace("v1", "v2") + WORKLOADS)
        it.config_seen("v2", calm)
        until("the removed cluster to go", LIMIT, lambda: CLUSTER_C not in it.clusters(), pause=0.02)
        until("the end of stale serving", LIMIT, lambda: it.metric("xds_stale") == 0)
        it.flowing(time.time())
        lost = loss(it.log.requests(calm))
        assert lost.failed == 0, lost
        assert lost.total > 5
        text = it.a.log("agent").read_text()
        assert "ready, but the control plane is away" in text
        assert "Traceback" not in text


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a tmpfs: a pod's ./etc/istio/proxy is one."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    folder.chmod(0o777)  # the agents are not root
    yield folder
    shutil.rmtree(folder)


def test_the_agent_is_restarted_without_a_control_plane(tmp_path: Path, memory: Path) -> None:
    with mesh(tmp_path, STATE_DIR=f"{memory}/{POD}") as it:
        assert it.a.agent is not None
        saved = memory / "a/xds"
        until("the files of four types, of names and of the time", LIMIT, lambda: len(list(saved.iterdir())) == 6)
        killed = time.time()
        it.kill_plane()
        heard = saved / "heard"  # written last, after everything that has changed
        until("the files that follow the outage", LIMIT, lambda: float(heard.read_text()) >= killed, pause=0.02)
        it.a.agent.kill()
        it.start_agent(it.a)
        until("readiness", LIMIT, lambda: it.ready(it.a))
        first = it.call()  # by name: the name table has survived, too
        assert first.ok, first
        assert first.headers["x-config"] == "v1"
        assert it.metric("xds_stale") == 1
        text = it.a.log("agent").read_text()
        assert "Configuration of an earlier run is at hand" in text

        calm = time.time()
        it.start_plane(MESH.replace("v1", "v2") + WORKLOADS)
        it.config_seen("v2", calm)
        until("the removed cluster to go", LIMIT, lambda: CLUSTER_C not in it.clusters(), pause=0.02)
        lost = loss(it.log.requests(calm))
        assert lost.failed == 0, lost
        assert "Traceback" not in it.a.log("agent").read_text()
