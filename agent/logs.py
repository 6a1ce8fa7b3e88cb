"""istio's log lines: text or JSON, scopes and levels. Scope `x` is the logger `agent.x`; `default` is `agent`."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

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


def _stamp(created: float) -> str:
    """RFC 3339 in UTC with six fractional digits."""
    whole, fraction = divmod(created, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1e6):06d}Z"


def _scope_of(record: logging.LogRecord) -> str:
    return record.name.partition(".")[2] or "default"


class TextFormatter(logging.Formatter):
    """time TAB level TAB [scope TAB] message {TAB key=value}"""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_stamp(record.created), NAMES.get(record.levelno, "info")]
        if (name := _scope_of(record)) != "default":
            parts.append(name)
        parts.append(record.getMessage())
        labels: Mapping[str, Any] = getattr(record, "labels", {})
        parts.extend(f"{k}={v}" for k, v in labels.items())
        line = "\t".join(parts)
        # Whoever asks for debug logs may see where an error came from; nobody else gets a traceback.
        if record.exc_info and logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "level": NAMES.get(record.levelno, "info"),
            "time": _stamp(record.created),
            "scope": _scope_of(record),
            "msg": record.getMessage(),
            **getattr(record, "labels", {}),
        }
        if record.exc_info and logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            entry["stack"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure(levels: Mapping[str, str], as_json: bool, targets: tuple[str, ...] = ("stdout",)) -> None:
    """Install handlers and levels. A scope called `all` overrides every scope; unknown scopes are tolerated."""
    root = logging.getLogger("agent")
    root.propagate = False
    root.handlers.clear()
    for target in targets or ("stdout",):
        stream: TextIO
        if target == "stdout":
            stream = sys.stdout
        elif target == "stderr":
            stream = sys.stderr
        else:
            stream = open(target, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
        root.addHandler(handler)
    everything = levels.get("all")
    root.setLevel(LEVELS[everything or levels.get("default", "info")])
    for name, level in levels.items():
        if name not in ("default", "all"):
            scope(name).setLevel(LEVELS[everything or level])
