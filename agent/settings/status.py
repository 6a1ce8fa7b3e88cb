"""What the injector tells the status server about the application: its probes and its metrics (spec/agent.md 7.3, 7.4).

Both variables are written by a program. What is wrong in them would make every probe fail later, so it stops the start.
"""

import json
from collections.abc import Mapping
from typing import Any

from agent.config import AppProbe, ScrapeTarget
from agent.errors import ConfigError

PROBERS, SCRAPING = "ISTIO_KUBE_APP_PROBERS", "ISTIO_PROMETHEUS_ANNOTATIONS"
ROOTS, ENDS = ("app-health", "app-lifecycle"), ("livez", "readyz", "startupz", "prestopz", "poststartz")
KINDS = ("httpGet", "tcpSocket", "grpc")
# The proxy's own ports: scraping one of them would ask itself, or be captured.
RESERVED = (15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090)


def app_probes(text: str | None) -> dict[str, AppProbe]:
    """Path → probe; raises ConfigError with one sentence."""
    if text is None or not text.strip():
        return {}
    return {path: _probe(path, raw) for path, raw in _object(text, PROBERS).items()}


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        reason = str(e) if isinstance(e, ValueError) else "it is nested too deeply"
        raise ConfigError(
            f"{name} is not JSON ({reason}): it is written by the injector, inject the pod again"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(f"{name} must be a JSON object, not a {type(data).__name__}: inject the pod again")
    return data


def _probe(path: str, raw: Any) -> AppProbe:
    where = f"{PROBERS}: {path!r}"
    pieces = path.split("/")
    if len(pieces) != 4 or pieces[0] or pieces[1] not in ROOTS or not pieces[2] or pieces[3] not in ENDS:
        raise ConfigError(f"{where} is not a probe's path, such as /app-health/<container>/livez")
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} must be a JSON object")
    fields = _folded(raw)
    given = [k for k in KINDS if fields.get(k.lower()) is not None]
    if len(given) != 1:
        raise ConfigError(f"{where} must have exactly one of {', '.join(KINDS)}")
    action = fields[given[0].lower()]
    if not isinstance(action, dict):
        raise ConfigError(f"{where}: {given[0]} must be a JSON object")
    action = _folded(action)
    return AppProbe(
        kind=given[0],
        port=_port(action.get("port"), where),
        timeout=_whole(fields.get("timeoutseconds"), f"{where}: timeoutSeconds"),
        path=_text(action.get("path"), f"{where}: path") or "/",
        scheme=_text(action.get("scheme"), f"{where}: scheme").upper() or "HTTP",
        headers=_headers(action.get("httpheaders"), where),
        service=_text(action.get("service"), f"{where}: service"),
    )


def _folded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Go matches the names of JSON fields whatever their case; the last one wins."""
    return {name.lower(): value for name, value in fields.items()}


def _port(value: Any, where: str) -> int:
    number = _whole(value, f"{where}: port")
    if not 0 < number < 65536:
        raise ConfigError(f"{where}: port must be between 1 and 65535, not {number}")
    return number


def _whole(value: Any, where: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**31:
        raise ConfigError(f"{where} must be a whole number, not {value!r}")
    return value


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{where} must be a string, not {value!r}")
    return value


def _headers(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ConfigError(f"{where}: httpHeaders must be a list of name and value")
    entries = [_folded(entry) for entry in value]
    return tuple((_text(e.get("name"), f"{where}: name"), _text(e.get("value"), f"{where}: value")) for e in entries)


def scrape(text: str | None, status_port: int) -> tuple[ScrapeTarget, ...]:
    """The application's metrics pages, none if scraping is off; raises ConfigError with one sentence."""
    if text is None or not text.strip():
        return ()
    fields = _folded(_object(text, SCRAPING))
    if _text(fields.get("scrape"), f"{SCRAPING}: scrape") == "false":
        return ()
    targets = fields.get("targets")
    if not targets:
        return (_target(fields, SCRAPING, status_port, default="80"),)
    if not isinstance(targets, list) or not all(isinstance(t, dict) for t in targets):
        raise ConfigError(f"{SCRAPING}: targets must be a list of objects with port and path")
    return tuple(_target(_folded(t), f"{SCRAPING}: targets[{i}]", status_port) for i, t in enumerate(targets))


def _target(fields: Mapping[str, Any], where: str, status_port: int, default: str = "") -> ScrapeTarget:
    text = _text(fields.get("port"), f"{where}: port") or default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) < 65536):
        raise ConfigError(f"{where}: port must be a number between 1 and 65535 in quotes, not {text!r}")
    port = int(text)
    if port == status_port or port in RESERVED:
        raise ConfigError(f"{where}: port {port} is the proxy's own; name the application's in prometheus.io/port")
    return ScrapeTarget(port, _text(fields.get("path"), f"{where}: path") or "/metrics")
