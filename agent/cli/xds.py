"""`xds`: what the running agent knows of its control plane and of the configuration that Envoy got from it."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.cli.control import PORT, object_of, question
from agent.cli.flags import Flag, FlagSet
from agent.durations import span

FLAGS = FlagSet(
    "remora-agent xds",
    (PORT, Flag("json", False, "print what the agent answers, as JSON")),
    about="Show the discovery streams of the running agent: per type what was pushed, accepted and refused.",
)
COLUMNS = ("TYPE", "VERSION", "RESOURCES", "BYTES", "PUSHES", "LAST PUSH", "SIZE", "LAST ACK", "LAST NACK", "STATE")


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 while the control plane's own configuration is in use, 1 if it is not or if no agent answers."""
    args, found = question(
        FLAGS, argv, environ, "/debug/xds", object_of("state", "endpoint", "silent", "cache", "types")
    )
    sys.stdout.write((json.dumps(found, indent=2) if args["json"] else "\n".join(lines(found))) + "\n")
    return 0 if found["state"] == "live" else 1


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """For a person. Shape of `found`: agent/xds/report.py."""
    heard = "never heard" if found["silent"] is None else f"last heard {since(found['silent'])} ago"
    yield f"{found['state']}  {found['endpoint'] or 'no endpoint has answered yet'}, {heard}"
    if found["error"]:
        yield f"  error: {found['error']}"
    yield (
        f"  {found['streams']} streams of Envoy's, {found['requests']} requests ({size(found['bytes_up'])}), "
        f"{found['responses']} responses ({size(found['bytes_down'])})"
    )
    cache = found["cache"]
    kept = f"{cache['resources']} resources, {size(cache['bytes'])}"
    reason = f": {cache['reason']}" if cache["reason"] else f", {kept}" if cache["resources"] else ""
    age = f", {since(cache['age'])} old" if cache["age"] and cache["resources"] else ""
    yield f"  cache {cache['state']}{reason}{age}"
    for one in found["endpoints"]:
        if one["error"] or len(found["endpoints"]) > 1:
            behind = f", behind the others for {since(one['behind'])}" if one["behind"] else ""
            failed = (
                f"{one['failures']} failures in a row{behind}: {one['error']}" if one["error"] else "nothing against it"
            )
            yield f"  endpoint {one['address']}  {failed}"
    yield ""
    yield from table([COLUMNS, *(row(one, found["state"]) for one in found["types"])])
    for one in found["types"]:
        if one["error"]:
            yield f"{one['type']} was refused: {one['error']}"


def row(one: Mapping[str, Any], state: str) -> tuple[str, ...]:
    """One type. It is stale while the control plane is away, and pending until Envoy has answered the last push."""
    word = state
    if state == "live" and one["pushes"]:
        word = "refused" if one["error"] else "live" if one["acked_version"] == one["version"] else "pending"
    return (
        one["type"],
        shortened(one["version"]),
        "-" if one["resources"] is None else str(one["resources"]),
        "-" if one["bytes"] is None else size(one["bytes"]),
        str(one["pushes"]),
        ago(one["pushed"]),
        size(one["last_push_bytes"]) if one["pushes"] else "-",
        ago(one["acked"]),
        ago(one["nacked"]),
        word,
    )


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for cells in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def shortened(version: str, most: int = 24) -> str:
    return (version if len(version) <= most else version[: most - 1] + "…") or "-"


def ago(seconds: float | None) -> str:
    return "-" if seconds is None else f"{since(seconds)} ago"


def since(seconds: float) -> str:
    """As `span`, with tenths below ten seconds: a push may be that fresh."""
    return f"{seconds:.1f}s" if seconds < 10 else span(seconds)


def size(number: int) -> str:
    """Bytes with at most four digits: 512 B, 62 KB, 1.4 MB."""
    if number < 1000:
        return f"{number} B"
    for factor, unit in ((1e3, "KB"), (1e6, "MB")):
        value = number / factor
        if value < 999.5:
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{number / 1e9:.1f} GB"
