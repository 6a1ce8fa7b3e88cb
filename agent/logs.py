"""istio's log lines: text or JSON, scopes and levels. Scope `x` is the logger `agent.x`; `default` is `agent`."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from agent.errors import ConfigError
from agent.lograte import RateLimit
from agent.text import one_line

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR,
          "fatal": logging.CRITICAL, "none": logging.CRITICAL + 10}  # fmt: skip
NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}


def scope(name: str) -> logging.Logger:
    """The logger of one scope (`xdsproxy`, `sds`, `cache`, `citadelclient`, `dns`, ...)."""
    return logging.getLogger("agent" if name == "default" else f"agent.{name}")


def stamp(created: float) -> str:
    """RFC 3339 in UTC with six fractional digits."""
    whole, fraction = divmod(created, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1e6):06d}Z"


# Libraries that would otherwise print tracebacks to stderr; each is a scope of its own, with its usual level.
LIBRARIES = {"asyncio": ""}


def _scope_of(record: logging.LogRecord) -> str:
    first, _, rest = record.name.partition(".")
    return first if first in LIBRARIES else rest or "default"


class _Formatter(logging.Formatter):
    """What both formats share: who is named as the caller, and who sees a stack."""

    def __init__(self, stacks: Mapping[str, str], callers: Sequence[str]) -> None:
        super().__init__()
        self._stacks, self._callers = stacks, frozenset(callers)

    def caller(self, record: logging.LogRecord) -> str:
        """`file:line`, "" if this scope's lines do not carry it."""
        if not self._callers or not self._callers & {_scope_of(record), "all"}:
            return ""
        return f"{record.pathname.rpartition('/')[2]}:{record.lineno}"

    def stack(self, record: logging.LogRecord) -> str:
        """The traceback of an error, or where the line was logged; "" for most people.

        Whoever asks for debug logs may see where an error came from; --log_stacktrace_level asks for it by level.
        """
        level = self._stacks.get("all") or self._stacks.get(_scope_of(record)) or self._stacks.get("default", "none")
        wanted = record.levelno >= LEVELS[level]
        if record.exc_info and (wanted or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)):
            return self.formatException(record.exc_info)
        if not wanted:
            return ""
        import traceback

        frames = [f for f in traceback.extract_stack() if "/logging/" not in f.filename and f.filename != __file__]
        return "".join(traceback.format_list(frames)).rstrip("\n")


class TextFormatter(_Formatter):
    """time TAB level TAB [scope TAB] [caller TAB] message {TAB key=value} {NEWLINE TAB line of a stack}

    Messages quote what others sent: control characters are escaped, so that nobody else writes a line of this log.
    """

    def format(self, record: logging.LogRecord) -> str:
        parts = [stamp(record.created), NAMES.get(record.levelno, "info")]
        if (name := _scope_of(record)) != "default":
            parts.append(name)
        if caller := self.caller(record):
            parts.append(caller)
        parts.append(record.getMessage())
        labels: Mapping[str, Any] = getattr(record, "labels", {})
        parts.extend(f"{k}={v}" for k, v in labels.items())
        line = "\t".join(map(one_line, parts))
        # A line of a stack may quote others as well: none of them begins as a log line does.
        return "\n\t".join((line, *map(one_line, self.stack(record).splitlines())))


class JsonFormatter(_Formatter):
    """One object a line: level, time, scope, msg, labels at the top level, perhaps caller and stack."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "level": NAMES.get(record.levelno, "info"),
            "time": stamp(record.created),
            "scope": _scope_of(record),
            "msg": record.getMessage(),
            **getattr(record, "labels", {}),
        }
        if caller := self.caller(record):
            entry["caller"] = caller
        if stack := self.stack(record):
            entry["stack"] = stack
        return json.dumps(entry, default=str)


class _Repeats(logging.Filter):
    """Holds back what is said too often; a later line (or the end) tells how much it was."""

    def __init__(self, handler: logging.Handler, limit: int) -> None:
        super().__init__()
        self._handler, self._limit = handler, RateLimit(limit)

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        self.summarise(now)
        return self._limit.admit((record.name, record.levelno, record.getMessage()), now)

    def summarise(self, now: float, *, everything: bool = False) -> None:
        for (name, level, message), count in self._limit.over(now, everything=everything):
            text = f"repeated {count} more times within a minute: {message}"
            self._handler.emit(logging.LogRecord(name, level, __file__, 0, text, None, None))


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; at the end of the process it tells what was held back."""

    repeats: _Repeats | None = None

    def close(self) -> None:
        if self.repeats is not None:
            self.repeats.summarise(time.monotonic(), everything=True)
        super().close()


def _open(target: str) -> TextIO:
    if target in ("stdout", "stderr"):
        return sys.stdout if target == "stdout" else sys.stderr
    try:
        return open(target, "a", buffering=1, encoding="utf-8")  # lives as long as the process
    except OSError as error:
        raise ConfigError(f"--log_target {target} cannot be written: {error.strerror}") from error


def configure(
    levels: Mapping[str, str],
    as_json: bool,
    targets: Sequence[str] = ("stdout",),
    stacks: Mapping[str, str] | None = None,
    callers: Sequence[str] = (),
    repeats: int = 0,
) -> None:
    """Install handlers and levels. Raises ConfigError for a target that cannot be written.

    `stacks`: level by scope from which a line carries a stack; `callers`: scopes whose lines name their caller;
    `repeats`: how many equal lines a minute are shown (0 = all).
    """
    root = logging.getLogger("agent")
    root.propagate = False
    root.handlers.clear()
    for target in targets or ("stdout",):
        handler = _Handler(_open(target))
        handler.setFormatter((JsonFormatter if as_json else TextFormatter)(stacks or {}, callers))
        if repeats > 0:
            handler.repeats = _Repeats(handler, repeats)
            handler.addFilter(handler.repeats)
        root.addHandler(handler)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers, library.propagate = list(root.handlers), False
    set_levels(levels)


def write(level: int, message: str, labels: Mapping[str, Any]) -> None:
    """One line to every target, whatever the levels are and however often it has been said."""
    for handler in logging.getLogger("agent").handlers:
        record = logging.LogRecord("agent", level, __file__, 0, message, None, None)
        record.labels = labels
        handler.emit(record)


def set_levels(levels: Mapping[str, str]) -> None:
    """Levels by scope. `all` overrides every scope; unknown scopes are tolerated; scopes not named follow `default`."""
    everything = levels.get("all")
    for name in logging.getLogger("agent").manager.loggerDict:
        if name.startswith("agent."):
            logging.getLogger(name).setLevel(logging.NOTSET)
    scope("default").setLevel(LEVELS[everything or levels.get("default", "info")])
    for name, level in levels.items():
        if name not in ("default", "all", *LIBRARIES):
            scope(name).setLevel(LEVELS[everything or level])
    for name, usual in LIBRARIES.items():
        level = levels.get(name) or usual or levels.get("default", "info")
        logging.getLogger(name).setLevel(LEVELS[everything or level])


def parse_levels(text: str) -> dict[str, str]:
    """Level by scope of `scope:level,...`; a bare level is for `default`. Raises ValueError for what is none."""
    out = {}
    for entry in filter(None, text.split(",")):
        name, colon, level = entry.rpartition(":")
        if level not in LEVELS or (colon and not name):
            raise ValueError(f"{entry!r} is not usable: write scope:level with a level of {', '.join(LEVELS)}")
        out[name or "default"] = level
    return out
