"""The flight recorder: a bounded ring of state changes, one line each, so that the cause is there when one looks."""

import json
import logging
import time
from collections import Counter

from agent import logs
from agent.record import fresh, record

log = logging.getLogger("agent")

RESERVED = 32  # events of a component that no other component pushes out


@record
class Event:
    time: float  # epoch seconds
    component: str  # envoy, identity, sds, xds, dns, rules, agent, health
    kind: str  # a stable word for machines: crashed, restarted, rotated, ...
    message: str  # one sentence for people; never a secret
    fields: dict[str, str | int | float | bool] = fresh(factory=dict)
    level: str = "info"  # as in the log
    number: int = 0  # of this process: 1 is its first event


class Recorder:
    """Keeps the last `size` events and logs each of them. One per process, handed to every component.

    A component that talks much pushes out its own events, or others' down to what is reserved for each of them.
    """

    def __init__(self, size: int = 512) -> None:
        self._size, self._reserved = size, min(RESERVED, size // 16)
        self._ring: list[Event] = []
        self._kept: Counter[str] = Counter()
        self._made = 0
        self.dropped_by_component: Counter[str] = Counter()

    @property
    def dropped(self) -> int:
        """How many are no longer here."""
        return self.dropped_by_component.total()

    def record(
        self, component: str, kind: str, message: str, *, level: int = logging.INFO, **fields: str | int | float | bool
    ) -> None:
        """Remember one state change and log it with its fields as labels."""
        self._made += 1
        self._kept[component] += 1
        word = logs.NAMES.get(level, "info")
        self._ring.append(Event(time.time(), component, kind, message, fields, word, self._made))
        if len(self._ring) > self._size:
            self._drop()
        log.log(level, "%s", message, extra={"labels": {"component": component, "event": kind, **fields}})

    def _drop(self) -> None:
        over = (i for i, event in enumerate(self._ring) if self._kept[event.component] > self._reserved)
        gone = self._ring.pop(next(over, 0))
        self._kept[gone.component] -= 1
        self.dropped_by_component[gone.component] += 1

    def events(self) -> list[Event]:
        """Oldest first."""
        return list(self._ring)

    def write(self, why: str) -> None:
        """Write all of them to the log, one line each below a line that says what they are."""
        if not self._ring:
            return
        logs.write(logging.INFO, f"flight recorder, written because of {why}: {len(self._ring)} events", {})
        for event in self._ring:
            labels = {"component": event.component, "event": event.kind, "at": logs.stamp(event.time), **event.fields}
            logs.write(logs.LEVELS[event.level], event.message, labels)

    def to_json(self) -> str:
        """The page behind `remora-agent events`: {"dropped": how many are no longer here, "events": oldest first}."""
        return json.dumps({"dropped": self.dropped, "events": [vars(e) for e in self._ring]})
