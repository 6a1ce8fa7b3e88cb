"""`certs`: which certificates the running agent holds, how long they last, when they are renewed, what went wrong."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.cli.control import PORT, question, rows_of
from agent.cli.flags import Flag, FlagSet
from agent.durations import span

BAR = 24
FLAGS = FlagSet(
    "remora-agent certs",
    (PORT, Flag("json", False, "print what the agent answers, as JSON")),
    about="Show the certificates of the running agent. Exit 1 if there is no valid one.",
)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit 0 if every certificate is valid, 1 if one is not or if no agent answers."""
    args, rows = question(FLAGS, argv, environ, "/debug/certs", rows_of("name", "source", "roots"))
    now = time.time()
    if args["json"]:
        print(json.dumps(rows, indent=2))
    else:
        text = "\n\n".join("\n".join(lines(row, now)) for row in rows)
        sys.stdout.write((text or "no certificates: another server on this node has them") + "\n")
    served = [row for row in rows if row.get("served", True)]
    return 0 if served and all(usable(row, now) for row in served) else 1


def usable(row: Mapping[str, Any], now: float) -> bool:
    """The certificate, or at least one root, is there and valid now."""
    found = [row["certificate"]] if row.get("certificate") else row["roots"] if row["source"] == "files" else []
    return any(c.get("not_before", now) <= now < c.get("not_after", 0.0) for c in found)


def lines(row: Mapping[str, Any], now: float) -> Iterator[str]:
    """One certificate for a person. Shape of `row`: agent/identity/report.py, agent/sds/store.py."""
    certificate = row.get("certificate")
    yield f"{row['name']}  {row.get('identity') or ', '.join((certificate or {}).get('san', ()))}".rstrip()
    if certificate:
        yield from facts(certificate, now)
    elif row["source"] == "ca":
        yield field("valid", "no certificate yet")
    for root in row["roots"]:
        yield field("trusts", f"{root.get('subject') or root.get('error')} {until(root, now)}".rstrip())
    if row.get("next_rotation"):
        yield field("rotation", moment(row["next_rotation"], now))
    if row.get("held_until"):
        yield field("held", f"a certificate that becomes valid {moment(row['held_until'], now)}")
    yield field("source", source(row, now))
    yield field("last error", row.get("last_error") or "none")


def facts(certificate: Mapping[str, Any], now: float) -> Iterator[str]:
    """Subject, names, issuer, serial and the bar of its validity."""
    if "error" in certificate:
        yield field("unreadable", certificate["error"])
        return
    yield field("subject", certificate["subject"] or "(empty)")
    yield field("san", ", ".join(certificate["san"]) or "(none)")
    yield field("issuer", certificate["issuer"] or "(empty)")
    yield field("serial", certificate["serial"])
    begin, end = certificate["not_before"], certificate["not_after"]
    yield field("valid", f"{bar(begin, end, now)} {stamp(begin)} to {stamp(end)}, {state(begin, end, now)}")


def field(name: str, text: str) -> str:
    return f"  {name:10} {text}"


def bar(begin: float, end: float, now: float) -> str:
    """The lifetime as a bar, what has passed filled."""
    share = min(1.0, max(0.0, (now - begin) / (end - begin))) if end > begin else 1.0
    filled = int(share * BAR)
    return "[" + "#" * filled + "-" * (BAR - filled) + "]"


def state(begin: float, end: float, now: float) -> str:
    if now >= end:
        return f"EXPIRED {span(now - end)} ago"
    return f"NOT YET VALID for {span(begin - now)}" if now < begin else f"{span(end - now)} left"


def until(root: Mapping[str, Any], now: float) -> str:
    end = root.get("not_after")
    return "" if end is None else f"until {stamp(end)}" if now < end else f"EXPIRED {stamp(end)}"


def source(row: Mapping[str, Any], now: float) -> str:
    if row["source"] == "files":
        return " and ".join(row["files"])
    credential, token = row.get("credential"), row["token"]
    text = f"CA {' or '.join(row['ca'])}"
    text += f", which accepted the {credential}" if credential else ""
    if token["problem"]:
        return f"{text}; {token['problem']}"
    if token["expires"] is not None:
        return f"{text}; the token expires {moment(token['expires'], now)}"
    return text


def moment(at: float, now: float) -> str:
    return f"in {span(at - now)} ({stamp(at)})" if at >= now else f"{span(now - at)} ago ({stamp(at)})"


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
