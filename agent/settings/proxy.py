"""The effective ProxyConfig from mesh file, environment, annotations and flags (spec/agent.md 1.3)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent.cli.flags import Parsed
from agent.errors import ConfigError
from agent.settings import proxyconfig
from agent.settings.environment import DEFAULT, Environment
from agent.settings.peers import Read
from agent.settings.protojson import camel, unknown
from agent.settings.proxyschema import PROXY_CONFIG

NAME = "proxy.istio.io/config"
ANNOTATION = f"annotation {NAME}"
DEFAULT_CONFIG = ("default_config", "defaultConfig")  # either spelling, as everywhere in protobuf's JSON
DISCOVERY, STATUS_PORT = "sidecar.istio.io/discoveryAddress", "status.sidecar.istio.io/port"
MERGED = ("proxyMetadata", "proxyHeaders")  # by key: each key has a source of its own


class Effective(NamedTuple):
    """The effective ProxyConfig, the source of each field (`proxyMetadata.KEY` for merged ones), fields ignored."""

    fields: dict[str, Any]
    sources: dict[str, str]
    unknown: tuple[str, ...] = ()


DEFAULTS = Effective(dict(proxyconfig.DEFAULTS), {})


def proxy_config(
    args: Parsed,
    env: Environment,
    annotations: Mapping[str, str],
    read: Read,
    resolve_udp: Callable[[str, int], str],
    refuse: Callable[[ConfigError], None],
) -> Effective:
    """The effective ProxyConfig: defaults < mesh file < PROXY_CONFIG < annotation, then flags and annotations.

    `resolve_udp(host, port)` gives `ip:port` or raises OSError. `refuse` hears each thing that cannot work.
    Raises ConfigError, with one sentence, for text that cannot be read at all.
    """
    config: dict[str, Any] = dict(proxyconfig.DEFAULTS)
    sources: dict[str, str] = {}
    ignored: list[str] = []
    faults: list[str] = []

    def add(source: str, overlay: Mapping[str, Any]) -> None:
        nonlocal config
        config = proxyconfig.merge(config, overlay, source)
        sources.update(dict.fromkeys(_names(overlay), source))
        ignored.extend(f"{name} in {source}" for name in unknown(dict(overlay), PROXY_CONFIG))

    path = args["meshConfig"]
    overlay, others = _mesh_file(path, read)
    if overlay:
        add(f"defaultConfig of {path}", overlay)
        # A mesh file has to be usable by itself, whatever the other layers make of it.
        alone = {**config, "serviceCluster": config.get("serviceCluster") or args["serviceCluster"]}
        faults += proxyconfig.faults(alone)
    ignored += (f"{name} in {path}" for name in others)
    for source, text in (("PROXY_CONFIG", env.text("PROXY_CONFIG")), (ANNOTATION, annotations.get(NAME, ""))):
        if text:
            add(source, proxyconfig.load_text(text, source))
    if args["concurrency"]:
        env.warn("--concurrency is legacy and overrides the proxy config: set concurrency there instead")
        config["concurrency"], sources["concurrency"] = args["concurrency"], "flag --concurrency"
    elif "concurrency" not in config and (limit := env.number("ISTIO_CPU_LIMIT", 0)):
        config["concurrency"], sources["concurrency"] = limit, "environment ISTIO_CPU_LIMIT"
    if config.get("serviceCluster") == "":
        config["serviceCluster"], sources["serviceCluster"] = args["serviceCluster"], "flag --serviceCluster"
    if args["templateFile"] and not config.get("customConfigFile"):
        config["proxyBootstrapTemplatePath"] = args["templateFile"]
        sources["proxyBootstrapTemplatePath"] = "flag --templateFile"
    for fault in dict.fromkeys((*faults, *proxyconfig.faults(config))):
        refuse(ConfigError(fault))
    if statsd := config.get("statsdUdpAddress"):
        config["statsdUdpAddress"] = _resolved(statsd, env, resolve_udp)
        if not config["statsdUdpAddress"]:
            del config["statsdUdpAddress"]
    if address := annotations.get(DISCOVERY):
        config["discoveryAddress"], sources["discoveryAddress"] = address, f"annotation {DISCOVERY}"
        try:
            proxyconfig.plane_addresses(address)
        except ValueError as e:
            refuse(ConfigError(f"annotation {DISCOVERY} {address!r} is not usable: {e}"))
    if (port := annotations.get(STATUS_PORT)) is not None:
        config["statusPort"] = int(port) if port.isascii() and port.isdigit() and int(port) < 65536 else 0
        sources["statusPort"] = f"annotation {STATUS_PORT}"
        if not config["statusPort"]:
            env.warn(f"{STATUS_PORT} {port!r} disables the agent's status server")
            del config["statusPort"]
    return Effective(config, sources, tuple(ignored))


def _names(overlay: Mapping[str, Any]) -> list[str]:
    """The fields that `overlay` sets, with the keys of those that are merged by key."""
    out = []
    for key, value in overlay.items():
        name = camel(str(key))
        inner = name in MERGED and isinstance(value, Mapping)
        out += [f"{name}.{camel(str(k)) if name == 'proxyHeaders' else k}" for k in value] if inner else [name]
    return out


def _resolved(statsd: str, env: Environment, resolve_udp: Callable[[str, int], str]) -> str:
    try:
        return resolve_udp(*proxyconfig.split_address(statsd))
    except (OSError, ValueError):
        env.warn(f"statsdUdpAddress {statsd} does not resolve and is ignored: use a name that this machine knows")
        return ""


def _mesh_file(path: str, read: Read) -> tuple[dict[Any, Any], list[str]]:
    """(defaultConfig, names of fields that no MeshConfig has) of the mesh file; nothing if there is none."""
    try:
        data = read(path)
    except OSError as e:
        raise ConfigError(f"cannot read the mesh config {path}: {e.strerror or e}; name a readable file") from None
    try:
        fields = proxyconfig.load_text((data or b"").decode(), path)
    except UnicodeDecodeError:
        raise ConfigError(f"the mesh config {path} is no text: write it as YAML or JSON in UTF-8") from None
    overlay: dict[Any, Any] = {}
    for name in DEFAULT_CONFIG:
        part = fields.pop(name, None)
        if not isinstance(part, dict | None):
            raise ConfigError(f"{path}: defaultConfig must be a mapping of fields, not {part!r:.40}")
        overlay |= part or {}
    if not fields:
        return overlay, []
    from agent.settings import meshconfig  # most files have nothing else in them

    return overlay, meshconfig.check(fields, path)


def source_of(sources: Mapping[str, str], name: str) -> str:
    """Where a field (or `proxyMetadata.KEY`) of the effective config comes from."""
    return sources.get(name, DEFAULT)
