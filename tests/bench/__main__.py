"""`make bench`: one pod with a real Envoy, started again and again. Prints medians; asserts nothing but that it worked.

Wall-clock times of different machines, or of a busy one, are not comparable: compare ratios within one run.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from agent.lab import process
from agent.lab.observe import agent_events, until
from agent.lab.options import CA_PORT, PLANE_PORT, Options, find_envoy
from agent.lab.pod import Pod
from agent.lab.probe import http_request
from agent.lab.world import Lab, interruptible

MESH = """\
trust_domain: cluster.local
mtls: STRICT
services:
  - {name: a, namespace: demo, vip: 10.96.0.1, port: 80, target_port: 8080}
"""
WORKLOAD = """\
workloads:
  - {name: a, namespace: demo, service_account: a, ip: 10.77.0.11, service: a}
"""
READY_PORT, STATUS_PORT = 15021, 15020
SETTLE = 10.0  # seconds after a push before resident memory is read
BLOB, BLOBS = 16_000, 1_300  # bytes of a response header, services that have one: about 20 MB of routes

Samples = dict[str, list[float]]


def large_mesh() -> str:
    """A mesh whose routes are about 20 MB: what a push of that size really looks like to Envoy."""
    rows = (
        f"  - {{name: big{n}, namespace: demo, vip: 10.97.{n // 250}.{n % 250 + 1}, port: 80, target_port: 8080, "
        f"headers: {{x-blob: {'x' * BLOB}}}}}\n"
        for n in range(BLOBS)
    )
    return MESH + "".join(rows) + WORKLOAD


def start(lab: Lab, pod: Pod, samples: Samples) -> None:
    """One start until ready through Envoy; the agent stays."""
    agent = pod.start_agent()
    envoy: list[float] = []

    def ready() -> bool:
        if not envoy and pod.envoy_pid() is not None:
            envoy.append(time.time() - agent.started)
        return bool(envoy) and http_request(lab.node, pod.namespace.ip, READY_PORT, "/healthz/ready").status == 200

    until("the agent to be ready", 60.0, ready, pause=0.02)
    samples["exec → ready, ms"].append((time.time() - agent.started) * 1000)
    samples["CPU of the agent until ready, s"].append(process.cpu_seconds(agent.pid))
    samples["exec → Envoy exec'd, ms"].append(envoy[0] * 1000)
    issued = agent_events(pod, ("issued",), agent.started)
    if issued:
        samples["exec → first certificate, ms"].append((issued[-1][0] - agent.started) * 1000)
    time.sleep(1.0)  # idle means idle: let the last imports and pushes pass
    samples["resident memory idle, MB"].append(process.resident_bytes(agent.pid) / 1e6)


def push(lab: Lab, pod: Pod, samples: Samples) -> None:
    """Push about 20 MB through the agent and read its memory when that has settled."""
    assert pod.agent is not None
    lab.write_mesh(large_mesh())
    peak = [0.0]

    def accepted() -> bool:
        assert pod.agent is not None
        peak[0] = max(peak[0], process.resident_bytes(pod.agent.pid) / 1e6)
        listeners = http_request(lab.node, pod.namespace.ip, STATUS_PORT, "/metrics", limit=10.0)
        return f"big{BLOBS - 1}.".encode() in listeners.body or routes(pod) >= BLOBS

    until("Envoy to accept the large push", 120.0, accepted, pause=0.2)
    samples["resident memory, peak of a 20 MB push, MB"].append(peak[0])
    time.sleep(SETTLE)
    samples[f"resident memory {SETTLE:.0f} s after it, MB"].append(process.resident_bytes(pod.agent.pid) / 1e6)


def routes(pod: Pod) -> int:
    """How many clusters Envoy has; the admin port answers inside the pod only."""
    stats = http_request(pod.namespace, "127.0.0.1", 15000, "/stats?filter=cluster_manager.active_clusters", limit=10.0)
    return int(stats.body.rpartition(b":")[2] or 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    names = (
        "exec → Envoy exec'd, ms",
        "exec → first certificate, ms",
        "exec → ready, ms",
        "CPU of the agent until ready, s",
        "resident memory idle, MB",
    )
    samples: Samples = {name: [] for name in names}
    samples |= {"resident memory, peak of a 20 MB push, MB": [], f"resident memory {SETTLE:.0f} s after it, MB": []}
    with (
        tempfile.TemporaryDirectory(prefix="remora-bench-") as logs,
        interruptible(),
        Lab(Options(MESH + WORKLOAD, Path(logs), find_envoy(os.environ))) as lab,
    ):
        lab.start_ca()
        lab.start_plane()
        lab.wait_listening("ca", CA_PORT)
        lab.wait_listening("plane", PLANE_PORT)
        pod = lab.pods["a"]
        pod.write_rules()
        for run in range(options.runs):
            start(lab, pod, samples)
            if run == options.runs - 1:
                push(lab, pod, samples)
            assert pod.agent is not None
            pod.agent.kill()
    print(f"{'figure':48}{'median':>10}{'min':>10}{'max':>10}{'n':>4}")
    for name, values in samples.items():
        print(f"{name:48}{statistics.median(values):10.3g}{min(values):10.3g}{max(values):10.3g}{len(values):4}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
