"""What happened in a lab run, as data for the report: lanes with states and marks, phases, requests. No I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from itertools import pairwise

from agent.lab.traffic import Request


class State(Enum):
    """What a lane shows during a span; also its colour's name in the report."""

    STARTING = "starting"
    UP = "up"
    UNREADY = "unready"
    ENDED = "ended"


class MarkKind(Enum):
    FAULT = "fault"  # what the demo did to the mesh
    GOOD = "good"  # a recovery
    EVENT = "event"  # what a process logged about itself


@dataclass(frozen=True, slots=True)
class Span:
    start: float  # epoch seconds, as all times here
    end: float
    state: State
    text: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    time: float
    kind: MarkKind
    text: str
    label: str = ""  # written beside the mark; "" = only shown when pointed at


@dataclass(slots=True)
class Lane:
    name: str
    spans: list[Span] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of the demo."""

    number: int
    title: str
    start: float
    end: float
    ok: bool
    seen: str


@dataclass(slots=True)
class Timeline:
    start: float
    end: float
    lanes: list[Lane] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def lane(self, name: str) -> Lane:
        """The lane of that name; made at its first use, so that order of use is order of display."""
        for lane in self.lanes:
            if lane.name == name:
                return lane
        self.lanes.append(Lane(name))
        return self.lanes[-1]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of an agent's log, see agent/logs.py."""

    time: float
    level: str
    message: str
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def event(self) -> str:
        """The kind of state change that the line tells of; empty for plain log lines."""
        return self.labels.get("event", "")


def parse_log(lines: Iterable[str]) -> list[LogLine]:
    """The agent's own lines of a log file; what Envoy or the interpreter wrote between them is left out."""
    found = []
    for line in lines:
        parts = line.rstrip("\n").split("\t")
        if len(parts) < 3:
            continue
        try:
            moment = datetime.fromisoformat(parts[0].replace("Z", "+00:00")).timestamp()
        except ValueError:
            continue
        words = parts[2:]
        labels: dict[str, str] = {}
        # Labels come last; a tab inside a message cannot be told from a separator, so stop at the first other word.
        while words and "=" in words[-1] and words[-1].partition("=")[0].isidentifier():
            key, _, value = words.pop().partition("=")
            labels[key] = value
        found.append(LogLine(moment, parts[1], words[-1] if words else "", dict(reversed(labels.items()))))
    return found


@dataclass(frozen=True, slots=True)
class Sample:
    """What was observed at a time; `state` None = nothing is there. `since` is when it began, if known better."""

    time: float
    state: State | None
    text: str = ""
    since: float = 0.0


def merge_samples(samples: Sequence[Sample], end: float) -> list[Span]:
    """Spans from observations in order of time: a state lasts until another one is observed."""
    spans: list[Span] = []
    last: Sample | None = None
    for sample in samples:
        if last is not None and (last.state, last.text) == (sample.state, sample.text):
            continue
        begin = sample.since or sample.time
        if last is not None and last.state is not None:
            spans[-1] = replace(spans[-1], end=begin)
        if sample.state is not None:
            spans.append(Span(begin, end, sample.state, sample.text))
        last = sample
    return spans


@dataclass(frozen=True, slots=True)
class Loss:
    """What a stream of requests went through: `gap` is the longest time without a successful answer, in seconds."""

    total: int
    failed: int
    gap: float
    worst_ms: float

    def __str__(self) -> str:
        return f"{self.failed} of {self.total} requests failed"


def loss(requests: Sequence[Request]) -> Loss:
    good = sorted(r.end for r in requests if r.ok)
    gap = max((b - a for a, b in pairwise(good)), default=0.0)
    worst = max((r.ms for r in requests if r.ok), default=0.0)
    return Loss(len(requests), sum(not r.ok for r in requests), gap, worst)
