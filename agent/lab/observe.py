"""Watches a lab from outside while something else happens to it: what ran when, and who called itself ready."""

import threading
import time
from collections.abc import Callable, Sequence

from agent.lab import process
from agent.lab.pod import Pod
from agent.lab.probe import http_request
from agent.lab.process import Process
from agent.lab.timeline import Mark, MarkKind, Sample, State, Timeline, merge_samples, parse_log
from agent.lab.world import Lab

PERIOD = 0.05  # seconds between two looks
STATUS_PORT = 15020
# Lanes are named as people read them.
INFRA_LANES = {"plane": "control plane", "ca": "CA"}


def agent_lane(pod: str) -> str:
    return f"{pod}: agent"


def envoy_lane(pod: str) -> str:
    return f"{pod}: Envoy"


def app_lane(pod: str) -> str:
    return f"{pod}: application"


def lanes(lab: Lab) -> list[str]:
    """All lanes from top to bottom: what serves the mesh, then each pod."""
    pods = [name(pod) for pod in lab.pods for name in (app_lane, envoy_lane, agent_lane)]
    return [*INFRA_LANES.values(), *pods]


class Watcher:
    """Samples every process of the lab on a thread of its own, while the context lasts; `fill` writes the lanes."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._samples: dict[str, list[Sample]] = {}
        self._was_ready: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self._look()

    def _look(self) -> None:
        for name, lane in INFRA_LANES.items():
            running = self._lab.find_infra(name)
            self._note(lane, self._plain(running))
        for pod in self._lab.pods.values():
            self._note(agent_lane(pod.name), self._agent(pod))
            self._note(envoy_lane(pod.name), self._envoy(pod))
            self._note(app_lane(pod.name), self._plain(pod.app))

    def _note(self, lane: str, sample: Sample) -> None:
        self._samples.setdefault(lane, []).append(sample)

    @staticmethod
    def _plain(running: Process | None) -> Sample:
        if running is None or not running.running:
            return Sample(time.time(), None)
        return Sample(time.time(), State.UP, f"pid {running.pid}", running.started)

    def _agent(self, pod: Pod) -> Sample:
        agent = pod.agent
        if agent is None or not agent.running:
            return Sample(time.time(), None)
        answer = http_request(self._lab.node, pod.namespace.ip, STATUS_PORT, "/healthz/ready", limit=1.0)
        if answer.status == 200:
            self._was_ready.add(pod.name)
            return Sample(time.time(), State.UP, f"pid {agent.pid}, ready")
        if pod.name in self._was_ready:
            return Sample(time.time(), State.UNREADY, f"pid {agent.pid}, not ready")
        return Sample(time.time(), State.STARTING, f"pid {agent.pid}, starting", agent.started)

    @staticmethod
    def _envoy(pod: Pod) -> Sample:
        pid = pod.envoy_pid()
        return (
            Sample(time.time(), State.UP, f"pid {pid}", process.started_at(pid)) if pid else Sample(time.time(), None)
        )

    def fill(self, timeline: Timeline, end: float) -> None:
        """Add a lane for everything that was seen, and the agents' own events as marks."""
        for name, samples in self._samples.items():
            timeline.lane(name).spans += merge_samples(samples, end)
        for pod in self._lab.pods.values():
            for lane, marks in events_of(pod).items():
                timeline.lane(lane).marks += marks


def events_of(pod: Pod) -> dict[str, list[Mark]]:
    """The state changes that a pod's agent logged, by lane."""
    lanes: dict[str, list[Mark]] = {}
    if not pod.log("agent").exists():
        return lanes
    for line in parse_log(pod.log("agent").read_text(errors="replace").splitlines()):
        if line.event:
            lane = envoy_lane(pod.name) if line.labels.get("component") == "envoy" else agent_lane(pod.name)
            lanes.setdefault(lane, []).append(Mark(line.time, MarkKind.EVENT, f"{line.event}: {line.message}"))
    return lanes


def agent_events(pod: Pod, kinds: Sequence[str], since: float) -> list[tuple[float, str, dict[str, str]]]:
    """The events of these kinds that a pod's agent logged since then: (time, kind, labels), oldest first."""
    lines = parse_log(pod.log("agent").read_text(errors="replace").splitlines())
    return [(each.time, each.event, each.labels) for each in lines if each.event in kinds and each.time >= since]


def until(what: str, limit: float, look: Callable[[], object], pause: float = 0.02) -> float:
    """Call `look` until it returns something true; returns the seconds that it took. Raises Unmet after `limit`."""
    began = time.monotonic()
    while not (seen := look()):
        if time.monotonic() - began > limit:
            raise Unmet(f"{what} within {limit:g} s", f"not so; last seen: {seen!r}")
        time.sleep(pause)
    return time.monotonic() - began


class Unmet(Exception):
    """A step of the demo saw something else than it promised."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected, self.seen = expected, seen
