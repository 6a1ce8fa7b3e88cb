"""The workload's own readiness probe (ProxyConfig.readinessProbe), with the defaults of the API it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.config import HealthConfig
from agent.errors import ConfigError

KINDS = {"httpGet": "http", "tcpSocket": "tcp", "exec": "exec", "grpc": "grpc"}


def health(probe: Mapping[str, Any] | None, ips: Sequence[str], localhost: bool = False) -> HealthConfig | None:
    """The section of the health monitor; None without a probe. Raises ConfigError with one sentence.

    The workload is asked at its first address, or at `localhost` where that was asked for.
    """
    chosen = [name for name in KINDS if name in (probe or {})]
    if probe is None or not chosen:
        return None
    name = chosen[0]
    action = probe[name] or {}
    kind = KINDS[name]
    command = tuple(action.get("command", ()))
    if kind == "exec" and not (command and command[0]):
        raise ConfigError("readinessProbe.exec needs a command: name the program and its arguments")
    port = int(action.get("port", 0))
    if kind != "exec" and not 0 < port < 65536:
        raise ConfigError(f"readinessProbe.{name} needs a port between 1 and 65535, not {port}")
    scheme = action.get("scheme", "").lower() or "http"
    if scheme not in ("http", "https"):
        raise ConfigError(f"readinessProbe.{name}.scheme must be http or https, not {scheme}")
    path = action.get("path", "") or "/"
    return HealthConfig(
        kind=kind,
        host=action.get("host", "") or ("localhost" if localhost or not ips else ips[0]),
        port=port,
        path=path if path.startswith("/") else f"/{path}",
        scheme=scheme,
        headers=tuple((h.get("name", ""), h.get("value", "")) for h in action.get("httpHeaders", ()) if h.get("name")),
        command=command,
        service=action.get("service", ""),
        initial_delay=max(0.0, float(probe.get("initialDelaySeconds", 0))),
        # 0 is how the wire says "not set".
        timeout=max(0.0, float(probe.get("timeoutSeconds", 0))) or 1.0,
        period=max(0.0, float(probe.get("periodSeconds", 0))) or 10.0,
        success_threshold=max(1, int(probe.get("successThreshold", 1))),
        failure_threshold=max(1, int(probe.get("failureThreshold", 1))),
    )
