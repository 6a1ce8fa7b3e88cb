"""The effective ProxyConfig from mesh file, environment, annotations and flags (spec/agent.md 1.3)."""

from collections.abc import Callable, Mapping
from typing import Any

from agent import proxyconfig
from agent.cli.flags import Parsed
from agent.config_peers import Read
from agent.environment import Environment
from agent.errors import ConfigError


def proxy_config(
    args: Parsed,
    env: Environment,
    annotations: Mapping[str, str],
    read: Read,
    resolve_udp: Callable[[str, int], str],
) -> dict[str, Any]:
    """The effective ProxyConfig: defaults < mesh file < PROXY_CONFIG < annotation, then flags and annotations.

    Raises ConfigError with one sentence. `resolve_udp(host, port)` gives `ip:port` or raises OSError.
    """
    config: dict[str, Any] = dict(proxyconfig.DEFAULTS)
    for source, overlay in _layers(args["meshConfig"], env, annotations, read):
        config = proxyconfig.merge(config, overlay, source)
    if args["concurrency"]:
        env.warn("--concurrency is legacy and overrides the proxy config: set concurrency there instead")
        config["concurrency"] = args["concurrency"]
    elif "concurrency" not in config and (limit := env.number("ISTIO_CPU_LIMIT", 0)):
        config["concurrency"] = limit
    if config.get("serviceCluster") == "":
        config["serviceCluster"] = args["serviceCluster"]
    proxyconfig.validate(config)
    _check_stackdriver(config, env)
    if statsd := config.get("statsdUdpAddress"):
        try:
            config["statsdUdpAddress"] = resolve_udp(*proxyconfig.split_address(statsd))
        except OSError:
            env.warn(f"statsdUdpAddress {statsd} does not resolve and is ignored: use a name that this machine knows")
            del config["statsdUdpAddress"]
    if address := annotations.get("sidecar.istio.io/discoveryAddress"):
        config["discoveryAddress"] = address
        proxyconfig.validate(config)
    if (port := annotations.get("status.sidecar.istio.io/port")) is not None:
        config["statusPort"] = int(port) if port.isascii() and port.isdigit() and int(port) < 65536 else 0
        if not config["statusPort"]:
            env.warn(f"status.sidecar.istio.io/port {port!r} disables the agent's status server")
            del config["statusPort"]
    return config


def _layers(
    mesh_path: str, env: Environment, annotations: Mapping[str, str], read: Read
) -> list[tuple[str, Mapping[str, Any]]]:
    """(where it comes from, fields) in rising precedence."""
    out: list[tuple[str, Mapping[str, Any]]] = []
    try:
        data = read(mesh_path)
    except OSError as e:
        raise ConfigError(f"cannot read the mesh config {mesh_path}: {e.strerror or e}; name a readable file") from None
    if data:
        source = f"defaultConfig of {mesh_path}"
        overlay = proxyconfig.load_text(data.decode("utf-8", "replace"), mesh_path).get("defaultConfig") or {}
        if not isinstance(overlay, dict):
            raise ConfigError(f"{source} must be a mapping of fields")
        out.append((source, overlay))
    if text := env.text("PROXY_CONFIG"):
        out.append(("PROXY_CONFIG", proxyconfig.load_text(text, "PROXY_CONFIG")))
    if text := annotations.get("proxy.istio.io/config", ""):
        out.append(
            ("annotation proxy.istio.io/config", proxyconfig.load_text(text, "annotation proxy.istio.io/config"))
        )
    return out


def _check_stackdriver(config: Mapping[str, Any], env: Environment) -> None:
    project = env.text("GCP_METADATA").partition("|")[0]
    if "stackdriver" in config.get("tracing", {}) and not project:
        raise ConfigError("tracing.stackdriver needs a GCP project: set GCP_METADATA or choose another tracer")
