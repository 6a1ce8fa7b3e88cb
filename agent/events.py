"""The flight recorder: a bounded ring of state changes, one line each, so that the cause is there when one looks."""

import json
import logging
import time
from collections import deque

from agent.record import fresh, record

log = logging.getLogger("agent")


@record
class Event:
    time: float  # epoch seconds
    component: str  # envoy, identity, sds, xds, dns, rules, agent
    kind: str  # a stable word for machines: crashed, restarted, rotated, ...
    message: str  # one sentence for people; never a secret
    fields: dict[str, str | int | float | bool] = fresh(factory=dict)


class Recorder:
    """Keeps the last `size` events and logs each of them. One per process, handed to every component."""

    def __init__(self, size: int = 512) -> None:
        self._ring: deque[Event] = deque(maxlen=size)
        self.dropped = 0

    def record(
        self, component: str, kind: str, message: str, *, level: int = logging.INFO, **fields: str | int | float | bool
    ) -> None:
        """Remember one state change and log it with its fields as labels."""
        if len(self._ring) == self._ring.maxlen:
            self.dropped += 1
        self._ring.append(Event(time.time(), component, kind, message, fields))
        log.log(level, "%s", message, extra={"labels": {"component": component, "event": kind, **fields}})

    def events(self) -> list[Event]:
        """Oldest first."""
        return list(self._ring)

    def dump(self) -> str:
        """All events as JSON lines, oldest first."""
        return "".join(json.dumps(vars(e), separators=(",", ":")) + "\n" for e in self._ring)

    def to_json(self) -> str:
        """The page behind `remora-agent events`: {"dropped": how many are no longer here, "events": oldest first}."""
        return json.dumps({"dropped": self.dropped, "events": [vars(e) for e in self._ring]})
