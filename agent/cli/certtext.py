"""The certificates of an agent as text for a person who has little time: the verdict first, then the reasons.

Shape of a row: agent/identity/report.py, agent/sds/report.py. What others wrote is shown on one line each.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.cli.prose import bar, clock, distinguished, folded, moment, stamp
from agent.durations import span
from agent.text import one_line

Row = Mapping[str, Any]
LABEL = 13  # columns of the names of fields
NAMES = 3  # more are told one a line
GOOD, WORSE, BAD = "32", "33", "31"  # colours of a terminal
SHOW_HASH = 16  # characters
SOON = 300.0  # seconds: a credential that lasts no longer is pointed at
LOUD = ("EXPIRED", "REFUSED", "SOON")  # in colour wherever they stand


def usable(row: Row, now: float) -> bool:
    """What Envoy gets under that name is there and valid now; of somebody else's server, that it is there."""
    if row["source"] == "external":
        return bool(row.get("there"))
    found = [row["certificate"]] if row.get("certificate") else row["roots"] if row["source"] == "files" else []
    return any(c.get("not_before", now) <= now < c.get("not_after", 0.0) for c in found)


def page(rows: Sequence[Row], now: float, width: int, colour: bool) -> Iterator[str]:
    """Lines. `width`: columns to fold them to, 0 = do not."""
    if not rows:
        yield "NONE: this agent has no certificates to serve, neither from a CA nor from files"
    for i, row in enumerate(rows):
        if i:
            yield ""
        word, text, grade = verdict(row, now)
        head = folded(f"{one_line(row['name'])}: {word}{one_line(text)}", width, 2)
        yield from _painted(head, word, grade) if colour else head
        for name, value in fields(row, now):
            lines = folded(f"  {name:{LABEL}}{one_line(value)}", width, LABEL + 2)
            yield from map(_loud, lines) if colour else lines


def _painted(lines: Sequence[str], word: str, colour: str) -> Iterator[str]:
    """The verdict behind the name in its colour, once."""
    for line in lines:
        begin = line.find(f": {word}") + 2 if f": {word}" in line else 2 if line.startswith(f"  {word}") else 0
        if begin and word:
            end = begin + len(word)
            line, word = f"{line[:begin]}\x1b[1;{colour}m{line[begin:end]}\x1b[0m{line[end:]}", ""
        yield line


def _loud(line: str) -> str:
    for word in LOUD:
        line = line.replace(word, f"\x1b[{BAD}m{word}\x1b[0m")
    return line


def verdict(row: Row, now: float) -> tuple[str, str, str]:
    """(one word, the rest of the sentence, a colour)."""
    if row["source"] == "external":
        if row.get("there"):
            return "ELSEWHERE", f", served by another server on {row['socket']}", GOOD
        return "MISSING", f": another server should have it on {row['socket']}, which is not there", BAD
    if not row.get("served", True):
        by = row.get("shadowed_by")
        return "NOT SERVED", f": Envoy gets {listed(by)} instead" if by else ": the CA's is, these are unusable", WORSE
    certificate, ca = row.get("certificate"), row["source"] == "ca"
    if certificate is None and row["roots"]:
        return _verdict_of_roots(row, now)
    if certificate is None and ca:
        return "NONE YET", f": {_none_yet(row, now)}", BAD
    if certificate is None:
        return "MISSING", f": {row.get('last_error') or 'the files are not there'}", BAD
    if "error" in certificate:
        return "UNREADABLE", f": {certificate['error']}", BAD
    begin, end = certificate["not_before"], certificate["not_after"]
    if now >= end:
        failing = f"; {_failing(row, now)}" if row.get("failures") else ""
        return "EXPIRED", f" {span(now - end)} ago{failing}", BAD
    if now < begin:
        return "NOT YET VALID", f" for {span(begin - now)}", BAD
    if row.get("failures"):
        return "DEGRADED", f": {_failing(row, now)}, valid for {span(end - now)} more", WORSE
    if row.get("last_error"):
        return (
            "DEGRADED",
            f": the files are unusable now, their last good content is served for {span(end - now)}",
            WORSE,
        )
    return "OK", f", valid for {span(end - now)} more", GOOD


def _verdict_of_roots(row: Row, now: float) -> tuple[str, str, str]:
    ends = [root["not_after"] for root in row["roots"] if "not_after" in root]
    if not any(now < end for end in ends):
        return "EXPIRED", ", every root of it", BAD
    if row.get("last_error"):
        return "DEGRADED", ": the file is unusable now, its last good content is served", WORSE
    gone = sum(now >= end for end in ends)
    return "OK", f", {len(ends)} roots{f', {gone} of them EXPIRED' if gone else ''}", WORSE if gone else GOOD


def _none_yet(row: Row, now: float) -> str:
    since = row.get("failing_since")
    return f"every attempt fails since {clock(since, now)}" if since else "the CA has not answered yet"


def _failing(row: Row, now: float) -> str:
    since = row.get("failing_since")
    return f"renewal fails since {clock(since, now)}" if since else "renewal fails"


def fields(row: Row, now: float) -> Iterator[tuple[str, str]]:
    """(name, text) of everything else, what is about trouble first; a name is "" where a line goes on."""
    certificate = row.get("certificate")
    good = certificate if certificate and "error" not in certificate else None
    if good:
        yield from validity(good, row, now)
    if held := row.get("held_until"):
        yield "held", f"a certificate that becomes valid {moment(held, now)}"
    if row["source"] == "ca":
        yield from renewal(row, now)
        yield from named("credentials", list(credentials(row, now)))
        yield from named("CA", row.get("ca") or ())
    elif row["source"] == "files":
        yield from named("files", row.get("files") or ())
        yield "last error", row.get("last_error") or "none"
    if good:
        yield from facts(good)
    yield from chain(row, now)
    if by := row.get("roots_shadowed_by"):
        yield "", f"(not served: Envoy gets {listed(by)} instead)"


def validity(certificate: Row, row: Row, now: float) -> Iterator[tuple[str, str]]:
    """From when to when, also as a bar."""
    begin, end = certificate["not_before"], certificate["not_after"]
    yield "valid", f"{stamp(begin)} to {stamp(end)} ({span(max(0.0, end - begin))})"
    at = row.get("next_rotation") if not row.get("failures") else None
    yield "", bar(begin, end, now, at) + (" | = renewal" if at and begin <= at <= end else "")


def facts(certificate: Row) -> Iterator[tuple[str, str]]:
    """Names, subject, issuer and serial."""
    sans = certificate.get("san", [])
    yield from named("names", sans if len(sans) > NAMES else [", ".join(sans) or "(none)"])
    yield "subject", distinguished(certificate.get("subject", ""))
    yield "issuer", distinguished(certificate.get("issuer", ""))
    yield "serial", str(certificate.get("serial"))


def renewal(row: Row, now: float) -> Iterator[tuple[str, str]]:
    """What comes next, what failed, and how it ended."""
    failures, at = row.get("failures", 0), row.get("next_rotation")
    if row.get("attempt_in_progress") or (at and at <= now):
        yield "renewal", "attempt in progress"
    elif at:
        yield "renewal", f"{'next try ' if failures else ''}{moment(at, now)}"
    if failures:
        since = row.get("failing_since")
        yield "failures", f"{failures} in a row" + (f" since {clock(since, now)}" if since else "")
    if reasons := row.get("failed_by_reason"):
        counted = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda r: -r[1]))
        yield "" if failures else "failures", f"since the agent started: {counted}"
    last = row.get("last_failure")
    if last:
        yield "last error", f"{clock(last['time'], now)}{', recovered' if last['recovered'] else ''}: {last['error']}"
    else:
        yield "last error", row.get("last_error") or "none"


def chain(row: Row, now: float) -> Iterator[tuple[str, str]]:
    """Intermediates and roots, one a line. Roots may look alike: they are told apart by their hash."""
    roots = row["roots"]
    own = {root.get("sha256") for root in roots}
    between = [one for one in row.get("issuers", ()) if one.get("sha256") not in own or one.get("sha256") is None]
    yield from named("intermediate", [authority(one, now) for one in between])
    yield from named("trusts", [f"{authority(root, now)}{origin(root, now)}" for root in roots])


def authority(one: Row, now: float) -> str:
    if "error" in one:
        return f"unreadable: {one['error']}"
    end = one["not_after"]
    state = f"EXPIRED {clock(end, now)}" if now >= end else f"until {stamp(end)} ({span(end - now)})"
    mark = f"sha256 {one['sha256'][:SHOW_HASH]}" if one.get("sha256") else f"serial {one.get('serial')}"
    return f"{distinguished(one.get('subject', ''))}, {mark}, {state}"


def origin(root: Row, now: float) -> str:
    """Why it is trusted, where the agent knows."""
    words = {"current": "the CA's", "bundle": "the control plane's bundle", "former": "a former one of the CA's"}
    if (word := words.get(root.get("origin") or "")) is None:
        return ""
    until = root.get("trusted_until")
    return f", {word}, trusted until {stamp(until)} ({span(max(0.0, until - now))})" if until else f", {word}"


def credentials(row: Row, now: float) -> Iterator[str]:
    """What the CA accepted and refused, and how long what could be shown to it lasts."""
    used, refused = row.get("credential"), row.get("refused") or []
    yield f"the CA accepted the {used} last" if used else "the CA has accepted none yet"
    if refused:
        yield f"REFUSED: {', '.join(refused)}"
    token = row.get("token") or {}
    expires, problem = token.get("expires"), token.get("problem")
    if expires is not None:
        yield f"token: {ends(expires, now)}"
    if problem and not (expires is not None and now >= expires):
        yield f"token: {problem}"
    if provisioned := row.get("provisioned"):
        end = provisioned.get("not_after")
        yield f"provisioned certificate: {ends(end, now) if end else 'unreadable'}"


def ends(at: float, now: float) -> str:
    if now >= at:
        return f"EXPIRED {moment(at, now)}"
    return f"expires {moment(at, now)}{', SOON' if at - now < SOON else ''}"


def named(name: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The values one a line, the name once."""
    for i, value in enumerate(values):
        yield "" if i else name, value


def listed(paths: Sequence[str]) -> str:
    return " and ".join(map(one_line, paths))
