"""The nine steps of the demo. Each returns one sentence of what it saw, or raises Unmet."""

import json
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.lab import process, traffic
from agent.lab.observe import INFRA_LANES, Unmet, agent_events, agent_lane, envoy_lane, until
from agent.lab.options import CA_PORT, PLANE_PORT
from agent.lab.pod import Pod
from agent.lab.probe import Sniffer, classify, http_request
from agent.lab.scene import Run, milliseconds
from agent.lab.timeline import loss, parse_log
from agent.lab.traffic import Request

ADMIN_PORT = 15000
READY_LIMIT, REPAIR_LIMIT, RESYNC_LIMIT = 30.0, 20.0, 30.0
OUTAGE = 3.0  # seconds without a control plane
SLOW = 3  # seconds that the request in flight at the end takes


def rules(run: Run) -> str:
    seen = []
    for pod in (run.a, run.b):
        began = time.monotonic()
        output = pod.write_rules()
        took = time.monotonic() - began
        lines = pod.rules()
        if not any("--to-ports 15006" in line for line in lines) or not any("15053" in line for line in lines):
            raise Unmet("rules for inbound traffic and for DNS", f"{len(lines)} rules in {pod.name}: {output.strip()}")
        seen.append(f"{pod.name}: {len(lines)} rules in {milliseconds(took)}")
    return f"{', '.join(seen)} ({backend(run.a)} backend)"


def backend(pod: Pod) -> str:
    """Which kernel interface holds the rules, asked with each family's own reader."""
    found = []
    for name in ("nft", "legacy"):
        path = shutil.which(f"iptables-{name}-save", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if path and "-A ISTIO_OUTPUT" in process.run(pod.place(0), [path], {})[1]:
            found.append(name)
    if len(found) != 1:
        raise Unmet("rules in exactly one backend", " and ".join(found) or "none")
    return found[0]


def agents_ready(run: Run) -> str:
    run.lab.start_ca()
    run.lab.start_plane()
    run.lab.wait_listening("ca", CA_PORT)
    run.lab.wait_listening("plane", PLANE_PORT)
    pods = (run.a, run.b)
    for pod in pods:
        pod.start_app()
    until("both applications to listen", 10.0, lambda: all("listens" in pod.log("app").read_text() for pod in pods))
    for pod in pods:
        pod.start_agent()
    envoy: dict[str, float] = {}
    ready: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def look() -> bool:
        for pod in pods:
            assert pod.agent is not None
            if not pod.agent.running:
                raise Unmet(f"the agent of {pod.name} to run", f"it ended with status {pod.agent.status()}")
            if pod.name not in envoy and pod.envoy_pid() is not None:
                envoy[pod.name] = time.time() - pod.agent.started
            if pod.name not in ready and pod.name in envoy and run.ready(pod):
                ready[pod.name] = time.time() - pod.agent.started
                cpu[pod.name] = process.cpu_seconds(pod.agent.pid)
                run.recovered(agent_lane(pod.name), time.time(), "ready", "ready")
        return len(ready) == len(pods)

    until("both agents ready through Envoy on port 15021", READY_LIMIT, look, pause=0.004)
    run.figure("exec → Envoy exec'd", {name: milliseconds(took) for name, took in envoy.items()})
    run.figure("exec → first CSR answered by the CA", first_certificates(run, pods))
    run.figure("exec → ready", {name: milliseconds(took) for name, took in ready.items()})
    run.figure("CPU of the agent until ready", {name: f"{used:.2f} s" for name, used in cpu.items()})
    run.figure("resident memory of the agent when ready", resident(pods))
    return ", ".join(f"{name} after {milliseconds(took)}" for name, took in sorted(ready.items())) + " from exec"


def first_certificates(run: Run, pods: Sequence[Pod]) -> dict[str, str]:
    """When the CA had signed each pod's first certificate, since the exec of its agent."""
    lines = parse_log(run.lab.infra("ca").log.read_text().splitlines())
    found = {}
    for pod in pods:
        assert pod.agent is not None
        wanted = run.lab.mesh.spiffe(pod.workload)
        signed = next((line.time for line in lines if line.labels.get("identity") == wanted), None)
        found[pod.name] = "?" if signed is None else milliseconds(signed - pod.agent.started)
    return found


def resident(pods: Sequence[Pod]) -> dict[str, str]:
    return {p.name: f"{process.resident_bytes(p.agent.pid) / 1e6:.0f} MB" for p in pods if p.agent is not None}


def call(run: Run, target: str) -> Request:
    """One request from A's application to B."""
    argv = [run.lab.shared.python, "-m", "agent.lab.traffic", run.url.rstrip("/") + target]
    _, output = process.run(run.a.place(1000), argv, run.lab.environ)
    found = traffic.parse(output.splitlines())
    if not found:
        raise Unmet("one request record", output.strip())
    return found[0]


def mutual_tls(run: Run) -> str:
    token = secrets.token_hex(8)
    wanted = f"spiffe://{run.lab.mesh.trust_domain}/ns/{run.a.workload.namespace}/sa/{run.a.workload.service_account}"
    with Sniffer(run.lab.node, run.b.namespace.port, run.b.namespace.ip, run.b.port) as sniffer:
        answer = call(run, f"/?token={token}")
    if not answer.ok:
        raise Unmet(f"200 from {run.url}", f"status {answer.status}: {answer.error}")
    body = json.loads(answer.body)
    certificate = body["headers"].get("x-forwarded-client-cert", "")
    if body["app"] != run.b.name or f"URI={wanted}" not in certificate:
        raise Unmet(f"B to see URI={wanted} in X-Forwarded-Client-Cert", certificate or "no such header")
    wire = classify(sniffer.payloads, [token.encode(), b"HTTP/1.1"])
    if wire.leaked or not wire.handshakes or not wire.application:
        raise Unmet("nothing but TLS between the pods", str(wire))
    run.figures["first request, through both Envoys"] = f"{answer.ms:.0f} ms"
    return (
        f"{answer.ms:.0f} ms; B saw {wanted}; wire: {wire.segments} segments, "
        f"{wire.handshakes} TLS handshake and {wire.application} data records, no plaintext"
    )


def plaintext_refused(run: Run) -> str:
    token = secrets.token_hex(8)
    answer = http_request(run.lab.outside, run.b.namespace.ip, run.b.port, f"/?token={token}")
    reached = token in run.b.log("app").read_text()
    # "Connection refused" would only mean that nobody listens; Envoy accepts, sees no TLS and hangs up.
    if answer.status or reached or answer.error.startswith("ConnectionRefused"):
        raise Unmet("Envoy to hang up", f"{answer}{', and the application saw it' if reached else ''}")
    return f"{run.b.namespace.ip}:{run.b.port} hung up on a client without TLS ({answer.error.partition(':')[0]})"


def envoy_killed(run: Run) -> str:
    run.start_stream()
    assert run.b.agent is not None
    victim = run.b.envoy_pid()
    if victim is None:
        raise Unmet("an Envoy below B's agent", "none")
    killed = run.fault(envoy_lane(run.b.name), f"kill -9 {victim}", "kill -9")
    process.kill(victim)
    until("a new Envoy", REPAIR_LIMIT, lambda: run.b.envoy_pid() not in (None, victim), pause=0.005)
    restarted = time.time()
    log = run.requests
    # Requests that were answered although they began after the kill prove the new Envoy, not the old one's buffers.
    until("requests to be answered again", REPAIR_LIMIT, lambda: any(r.ok for r in log.requests(restarted)))
    first = min(r.end for r in log.requests(restarted) if r.ok)
    run.recovered(envoy_lane(run.b.name), first, "requests are answered again")
    until("B ready again", REPAIR_LIMIT, lambda: run.ready(run.b))
    run.settle()
    if not run.b.agent.running:
        raise Unmet("B's agent to stay", f"it ended with status {run.b.agent.status()}")
    after = log.requests(first)
    if any(not r.ok for r in after):
        raise Unmet("no failure after the recovery", str(loss(after)))
    lost = loss(log.requests(killed - 2.0))
    run.figures["Envoy killed → new Envoy exec'd"] = milliseconds(restarted - killed)
    run.figures["Envoy killed → requests answered"] = milliseconds(first - killed)
    return (
        f"restarted in place after {milliseconds(restarted - killed)}, requests answered after "
        f"{milliseconds(first - killed)}, requests lost: {lost.failed}"
    )


def rules_flushed(run: Run) -> str:
    run.start_stream()
    before = run.a.rules()
    flushed = run.fault(agent_lane(run.a.name), "iptables -t nat -F in A", "rules flushed")
    status, output = process.run(run.a.place(0), [process.tool("iptables"), "-t", "nat", "-F"], run.lab.environ)
    if status:
        raise Unmet("iptables -F to work", output.strip())
    until("the same rules in A as before", REPAIR_LIMIT, lambda: run.a.rules() == before, pause=0.005)
    repaired = time.time()
    run.recovered(agent_lane(run.a.name), repaired, "the same rules again", "repaired")
    until("requests to be answered", REPAIR_LIMIT, run.flowing(repaired))
    run.settle()
    events = agent_events(run.a, ("rules-missing", "rules-repaired"), flushed - 0.001)
    if {kind for _, kind, _ in events} != {"rules-missing", "rules-repaired"}:
        raise Unmet("events rules-missing and rules-repaired", str([kind for _, kind, _ in events]))
    lost = loss(run.requests.requests(flushed))
    run.figures["rules flushed → repaired"] = milliseconds(repaired - flushed)
    noticed = next(when for when, kind, _ in events if kind == "rules-missing")
    return (
        f"noticed after {milliseconds(noticed - flushed)}, all {len(before)} rules back after "
        f"{milliseconds(repaired - flushed)}, requests lost: {lost.failed}"
    )


def serial(run: Run, pod: Pod) -> str:
    """Serial number of the workload certificate that Envoy uses now, from its admin port."""
    answer = http_request(pod.namespace, "127.0.0.1", ADMIN_PORT, "/certs")
    found: list[Mapping[str, str]] = []
    if answer.status == 200:
        for entry in json.loads(answer.body)["certificates"]:
            found += entry.get("cert_chain", [])
    return found[0]["serial_number"] if found else ""


def ca_away(run: Run) -> str:
    run.start_stream()
    pods = (run.a, run.b)
    lane = INFRA_LANES["ca"]
    stopped = run.fault(lane, "the CA is killed", "killed")
    run.lab.infra("ca").kill()
    before = {pod.name: serial(run, pod) for pod in pods}
    if not all(before.values()):
        raise Unmet("a certificate in both Envoys", str(before))
    limit = run.lab.seconds_of_certificates()
    until("both agents to try a renewal and fail", limit,
          lambda: all(agent_events(pod, ("renewal-failed",), stopped) for pod in pods))  # fmt: skip
    run.settle()
    away = time.time() - stopped
    run.lab.start_ca()
    run.lab.wait_listening("ca", CA_PORT)
    back = time.time()
    run.recovered(lane, back, "the CA is back", "back")
    took = until("a fresh certificate in both Envoys", limit,
                 lambda: all(serial(run, pod) not in ("", before[pod.name]) for pod in pods))  # fmt: skip
    for pod in pods:
        run.recovered(agent_lane(pod.name), time.time(), "Envoy has a fresh certificate")
    run.settle()
    lost = loss(run.requests.requests(stopped))
    if lost.failed:
        raise Unmet("no request to fail", str(lost))
    return (
        f"away {away:.1f} s, renewals failed, 0 of {lost.total} requests did; fresh certificates "
        f"{milliseconds(took)} after it was back"
    )


def plane_away(run: Run) -> str:
    run.start_stream()
    lane = INFRA_LANES["plane"]
    stopped = run.fault(lane, "the control plane is killed", "killed")
    run.lab.infra("plane").kill()
    run.settle(OUTAGE)
    run.lab.start_plane()
    run.lab.wait_listening("plane", PLANE_PORT)
    back = time.time()
    run.recovered(lane, back, "the control plane is back", "back")
    value = f"v{secrets.token_hex(3)}"
    text, changes = re.subn(r"(x-config:\s*)[\w.-]+", rf"\g<1>{value}", run.lab.options.mesh_text)
    if not changes:
        raise Unmet("a header x-config in the mesh file", "none")
    run.lab.write_mesh(text)
    log = run.requests

    def changed() -> Request | None:
        return next((r for r in log.requests(back) if r.headers.get("x-config") == value), None)

    took = until("a caller to see the changed header", RESYNC_LIMIT, changed)
    run.recovered(agent_lane(run.a.name), time.time(), f"callers see x-config: {value}", "change seen")
    run.settle()
    lost = loss(log.requests(stopped))
    if lost.failed:
        raise Unmet("no request to fail", str(lost))
    run.figures["control plane back and file changed → a caller sees it"] = milliseconds(took)
    return (
        f"away {back - stopped:.1f} s, 0 of {lost.total} requests failed, a change of the mesh file reached callers "
        f"{milliseconds(took)} after it was back"
    )


def drained(run: Run) -> str:
    run.stop_stream()
    run.figure("resident memory of the agent at the end", resident((run.a, run.b)))
    assert run.b.agent is not None
    url = run.url.rstrip("/") + f"/slow?seconds={SLOW}"
    slow = run.a.run_client("slow", ["agent.lab.traffic", url])
    until("the slow request in B's application", 10.0,
          lambda: "slow request" in run.b.log("app").read_text())  # fmt: skip
    stopped = run.fault(agent_lane(run.b.name), "SIGTERM to B's agent", "SIGTERM")
    run.b.agent.signal(signal.SIGTERM)
    status = run.b.agent.wait(30.0)
    ended = time.time()
    if status is None:
        raise Unmet("B's agent to end within 30 s", "it still runs")
    if slow.wait(SLOW + 10.0) is None:
        raise Unmet("the slow request to end", "it still runs")
    found = traffic.parse(run.a.log("slow").read_text().splitlines())
    if not found or not found[0].ok:
        raise Unmet("200 for the request in flight", str(found))
    run.recovered(agent_lane(run.b.name), found[0].end, "the slow request finished", "answered")
    if status != 0:
        raise Unmet("exit status 0 of B's agent", str(status))
    left = run.lab.members(run.b, besides=run.b.app)
    if left:
        raise Unmet("no process of agent or Envoy left in B", str(left))
    return (
        f"the request finished with 200 after {found[0].ms / 1000:.1f} s, the agent ended with status 0 "
        f"{ended - stopped:.1f} s after SIGTERM"
    )


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    action: Callable[[Run], str]


STEPS = (
    Step("redirect rules in both pods", rules),
    Step("both agents ready", agents_ready),
    Step("A calls B by name: identity seen, mutual TLS", mutual_tls),
    Step("plaintext from outside is refused", plaintext_refused),
    Step("B's Envoy killed under traffic", envoy_killed),
    Step("A's rules flushed", rules_flushed),
    Step("CA away across a rotation", ca_away),
    Step("control plane away, then a change", plane_away),
    Step("B stopped with a request in flight", drained),
)
