"""`events`: what the running agent remembers of its last state changes."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.control import PORT, get_json, object_of, only_flags, port_of
from agent.cli.flags import Flag, FlagSet
from agent.durations import go_duration
from agent.errors import ConfigError
from agent.text import one_line

COMPONENTS = ("agent", "dns", "envoy", "health", "identity", "rules", "sds", "xds")
LEVELS = ("debug", "info", "warn", "error", "fatal")
PERIOD = 1.0  # seconds between two questions of --follow
FLAGS = FlagSet(
    "remora-agent events",
    (
        PORT,
        Flag("component", "", f"only those of one component: {', '.join(COMPONENTS)}"),
        Flag("level", "", f"only those of that level or worse: {', '.join(LEVELS)}"),
        Flag("since", "", "only those of the last while, such as 10m or 2h"),
        Flag("follow", False, "go on with new ones until the agent ends"),
        Flag("json", False, "one JSON object a line"),
    ),
    about="Show the flight recorder of the running agent, oldest first.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0; ConfigError (255) for what cannot be asked, FatalError (1) if no agent answers (any more)."""
    args = only_flags(FLAGS, argv)
    wanted = Filter(args["component"], args["level"], args["since"], time.time())
    port, last = port_of(args, environ), 0
    while True:
        page = get_json(port, "/debug/events", _fits)
        if not last and not args["json"] and page["dropped"]:
            print(f"({page['dropped']} older events are no longer here)")
        numbers = [event.get("number", 0) for event in page["events"]]
        if max(numbers, default=0) < last:
            last = 0  # another agent: its predecessor's events went with it
        for event in page["events"]:
            if event.get("number", 0) > last and wanted.lets(event):
                text = json.dumps(event, separators=(",", ":")) if args["json"] else line(event)
                sys.stdout.write(text + "\n")
        last = max(numbers, default=last)
        if not args["follow"]:
            return 0
        sys.stdout.flush()
        time.sleep(PERIOD)


def _fits(page: Any) -> bool:
    if not object_of("dropped", "events")(page) or not isinstance(page["events"], list):
        return False
    return all(object_of("time", "component", "kind", "message", "fields")(event) for event in page["events"])


class Filter:
    """What a person wants to see. ConfigError for what is unknown. `now`: epoch seconds."""

    def __init__(self, component: str, level: str, since: str, now: float) -> None:
        if component and component not in COMPONENTS:
            raise ConfigError(f"--component {component!r} is unknown: it is one of {', '.join(COMPONENTS)}")
        level = level.lower().replace("warning", "warn")
        if level and level not in LEVELS:
            raise ConfigError(f"--level {level!r} is unknown: it is one of {', '.join(LEVELS)}")
        try:
            begin = now - go_duration(since) if since else 0.0
        except ValueError as e:
            raise ConfigError(f"--since: {e}") from None
        self._component, self._levels, self._begin = component, LEVELS[LEVELS.index(level) :] if level else (), begin

    def lets(self, event: Mapping[str, Any]) -> bool:
        """Whether it is one of them."""
        return (
            self._component in ("", event["component"])
            and (not self._levels or event.get("level", "info") in self._levels)
            and event["time"] >= self._begin
        )


def line(event: Mapping[str, Any]) -> str:
    """time level component kind message {key=value}"""
    whole, fraction = divmod(event["time"], 1)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1000):03d}Z"
    fields = "".join(f" {key}={value}" for key, value in event["fields"].items())
    head = f"{stamp} {event.get('level', 'info'):5} {event['component']:8} {event['kind']:16}"
    return one_line(f"{head} {event['message']}{fields}")
