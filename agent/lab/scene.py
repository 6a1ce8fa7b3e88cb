"""What the demo's steps share: the lab and its two pods, the steady request stream, and what the report will show."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.lab.observe import until
from agent.lab.pod import Pod
from agent.lab.probe import http_request
from agent.lab.process import Process
from agent.lab.timeline import Mark, MarkKind, Timeline
from agent.lab.traffic import Log, Request
from agent.lab.world import Lab

READY_PORT = 15021  # Envoy's health listener, which asks the agent: what the kubelet probes
INTERVAL = 0.04  # seconds between two requests of each kind in the stream
SETTLE = 1.0  # seconds of traffic after a recovery, to see that it lasts


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


@dataclass(slots=True)
class Run:
    """What the steps share: the lab, the two pods, the request stream, and what the report will show."""

    lab: Lab
    a: Pod
    b: Pod
    url: str  # of B, by service name
    timeline: Timeline
    figures: dict[str, str] = field(default_factory=dict)
    stream: Process | None = None

    def fault(self, lane: str, text: str, label: str) -> float:
        """Mark a fault that is caused now; returns the time."""
        now = time.time()
        self.timeline.lane(lane).marks.append(Mark(now, MarkKind.FAULT, text, label))
        return now

    def recovered(self, lane: str, when: float, text: str, label: str = "") -> None:
        self.timeline.lane(lane).marks.append(Mark(when, MarkKind.GOOD, text, label))

    def figure(self, what: str, by_pod: Mapping[str, str]) -> None:
        """Remember one figure of several pods."""
        self.figures[what] = ", ".join(f"{name} {value}" for name, value in sorted(by_pod.items()))

    @property
    def requests(self) -> Log:
        return Log(self.a.log("traffic"))

    def start_stream(self) -> None:
        """Begin the steady request stream from A's application to B, and see it flow."""
        if self.stream is None:
            self.stream = self.a.run_client("traffic", ["agent.lab.traffic", self.url, str(INTERVAL)])
            log = self.requests
            until("answers to the request stream", 10.0, lambda: sum(r.ok for r in log.requests()) >= 20)

    def stop_stream(self) -> None:
        if self.stream is not None:
            self.stream.stop()

    def flowing(self, since: float) -> Callable[[], Request | None]:
        """Looks for the first successful request that began after `since`."""
        log = self.requests
        return lambda: next((r for r in log.requests(since) if r.ok), None)

    def settle(self, seconds: float = SETTLE) -> None:
        """Let the stream run on for a while."""
        wanted = time.time() + seconds
        until("the request stream to go on", seconds + 10.0, self.flowing(wanted))

    def ready(self, pod: Pod) -> bool:
        return http_request(self.lab.node, pod.namespace.ip, READY_PORT, "/healthz/ready", limit=1.0).status == 200
