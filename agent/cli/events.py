"""`events`: what the running agent remembers of its last state changes."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.control import PORT, object_of, question
from agent.cli.flags import Flag, FlagSet

FLAGS = FlagSet(
    "remora-agent events",
    (
        PORT,
        Flag("component", "", "only those of one component: agent, envoy, identity, sds, xds, dns, rules"),
        Flag("json", False, "one JSON object a line"),
    ),
    about="Show the flight recorder of the running agent, oldest first.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0, or FatalError (1) if no agent answers."""
    args, answer = question(FLAGS, argv, environ, "/debug/events", object_of("dropped", "events"))
    events = [e for e in answer["events"] if args["component"] in ("", e["component"])]
    if not args["json"] and answer["dropped"]:
        print(f"({answer['dropped']} older events are no longer here)")
    for event in events:
        sys.stdout.write((json.dumps(event, separators=(",", ":")) if args["json"] else line(event)) + "\n")
    return 0


def line(event: Mapping[str, Any]) -> str:
    """time component kind message {key=value}"""
    whole, fraction = divmod(event["time"], 1)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1000):03d}Z"
    fields = "".join(f" {key}={value}" for key, value in event["fields"].items())
    return f"{stamp} {event['component']:8} {event['kind']:16} {event['message']}{fields}"
