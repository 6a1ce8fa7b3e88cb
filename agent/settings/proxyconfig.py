"""ProxyConfig: parsing its text, merging its layers, refusing what cannot work. Pure; protobuf JSON spelling."""

from collections.abc import Iterator, Mapping
from typing import Any

from agent.durations import proto_nanos
from agent.errors import ConfigError
from agent.settings.protojson import camel
from agent.settings.proxyschema import PROXY_CONFIG

ISTIOD = "istiod.istio-system.svc"
SRV = "srv+"  # before a name whose SRV records name the endpoints

DEFAULTS: dict[str, Any] = {
    "configPath": "./etc/istio/proxy",
    "binaryPath": "/usr/local/bin/envoy",
    "serviceCluster": "istio-proxy",
    "drainDuration": "45s",
    "terminationDrainDuration": "5s",
    "proxyAdminPort": 15000,
    "controlPlaneAuthPolicy": "MUTUAL_TLS",
    "discoveryAddress": f"{ISTIOD}:15012",
    "statNameLength": 189,
    "statusPort": 15020,
}
MOST_VALUES = 1_000_000  # in one text; a few aliases of aliases would keep us busy for ever
_CLUSTER_NAME = ("serviceCluster", "tracingServiceName")  # a oneof: setting one unsets the other


def load_text(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML or JSON text holds ({} if empty); raises ConfigError naming `source`."""
    import json

    try:
        try:
            data = json.loads(text)
        except ValueError:
            data = _load_yaml(text, source)
    except RecursionError:
        raise ConfigError(f"{source} is nested too deeply") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must be a mapping of fields, not a {type(data).__name__}")
    return data


def _load_yaml(text: str, source: str) -> Any:
    if not text.strip():
        return None
    import yaml  # 10 ms, and only those who do not write JSON need it

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """YAML 1.1 as Go reads it: dates stay text, `y` and `n` are booleans too."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in pairs if tag != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    import re

    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))
    Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}
    try:
        data = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as e:
        mark = getattr(e, "problem_mark", None)
        last = text.count("\n")  # the end of a text that was cut off is not a line of its own
        where = f" at line {min(mark.line, last) + 1}" if mark else ""
        problem = getattr(e, "problem", None) or str(e).partition("\n")[0]
        if "nesting depth" in problem:  # libyaml's own limit, where it has one; elsewhere it is Python's
            raise RecursionError from None
        raise ConfigError(f"{source} is neither JSON nor YAML{where}: {problem}") from None
    if "&" in text and _expanded(data, {}) > MOST_VALUES:
        raise ConfigError(f"{source} refers to itself or repeats itself: its aliases stand for too many values")
    return data


def _expanded(value: Any, known: dict[int, int]) -> int:
    """How many values `value` is once its aliases are written out; too many if it contains itself."""
    if not isinstance(value, dict | list):
        return 1
    if (size := known.get(id(value))) is None:
        known[id(value)] = MOST_VALUES + 1  # of one that is reached again from within
        size = 1 + sum(_expanded(v, known) for v in (value.values() if isinstance(value, dict) else value))
        known[id(value)] = size
    return size


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`base` with each top-level field of `overlay` replaced; proxyMetadata and proxyHeaders are merged by key."""
    try:
        new = PROXY_CONFIG[0](dict(overlay), "")
    except ValueError as e:
        raise ConfigError(f"{source}: {e}") from None
    out = dict(base)
    # A scalar that is written as its default is set all the same, although protobuf would not print it.
    for name in _written(overlay) - new.keys():
        out.pop(name, None)
    for name, value in new.items():
        if name in _CLUSTER_NAME:
            for other in _CLUSTER_NAME:
                out.pop(other, None)
        if name in ("proxyMetadata", "proxyHeaders"):
            value = {**out.get(name, {}), **value}
        out[name] = value
    return out


def _written(overlay: Mapping[str, Any]) -> set[str]:
    """Fields that `overlay` sets, except the merged maps (an empty map there changes nothing)."""
    return {camel(str(k)) for k, v in overlay.items() if v is not None} - {"proxyMetadata", "proxyHeaders"}


def plane_addresses(text: str) -> tuple[str, ...]:
    """The endpoints of a discoveryAddress: a comma list of `host:port` and `srv+name`; ValueError with a reason."""
    addresses = tuple(part.strip() for part in text.split(","))
    for address in addresses:
        if not address.startswith(SRV):
            split_address(address)
        elif not all(label and len(label) < 64 for label in address.removeprefix(SRV).rstrip(".").split(".")):
            raise ValueError(f"{address!r} must name SRV records after {SRV}")
        elif not set(address).isdisjoint(":/@ \t"):
            raise ValueError(f"{address!r} must be a name only: SRV records say which port")
    return addresses


def server_name(address: str) -> str:
    """The name that the certificate of `host:port` must have: its host; a local one stands for istiod."""
    host = split_address(address)[0]
    return ISTIOD if "localhost" in host else host


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of `host:port` or `[v6]:port`; raises ValueError with a reason."""
    if "://" in address:
        raise ValueError("it must be host:port without a scheme")
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError("it must be host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address must be in brackets, as in [fd00::1]:15012")
    if not host or any(c.isspace() or c in "/@\0" for c in host):
        raise ValueError(f"{host!r} is not a host name")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{port!r} is not a port between 1 and 65535")
    return host, int(port)


def validate(config: Mapping[str, Any]) -> None:
    """Raise ConfigError with one sentence for the first thing that cannot work."""
    for fault in faults(config):
        raise ConfigError(fault)


def faults(config: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for everything that cannot work."""
    for name in ("configPath", "binaryPath"):
        if not config.get(name):
            yield f"{name} must not be empty: leave it out to get the default {DEFAULTS[name]}"
    if not config.get("serviceCluster") and "tracingServiceName" not in config:
        yield "serviceCluster must not be empty: set it in the proxy config or with --serviceCluster"
    nanos = proto_nanos(config.get("drainDuration", "0s"))
    if nanos <= 0 or nanos % 1_000_000_000:
        yield f"drainDuration must be a positive number of whole seconds, not {config.get('drainDuration')}"
    try:
        plane_addresses(config.get("discoveryAddress", ""))
    except ValueError as e:
        yield f"discoveryAddress {config.get('discoveryAddress', '')!r} is not usable: {e}, such as {ISTIOD}:15012"
    for name in ("proxyAdminPort", "statusPort"):
        if not 0 < config.get(name, 0) < 65536:
            yield f"{name} must be a port between 1 and 65535, not {config.get(name, 0)}"
    if statsd := config.get("statsdUdpAddress"):
        yield from _address(statsd, "statsdUdpAddress")
    for name in ("envoyAccessLogService", "envoyMetricsService"):
        service = config.get(name, {})
        if service.get("address"):
            yield from _address(service["address"], f"{name}.address")
        yield from _tls(service.get("tlsSettings", {}), f"{name}.tlsSettings")
    yield from _tracing(config.get("tracing", {}))
    for name, provider in config.get("privateKeyProvider", {}).items():
        if proto_nanos(provider.get("pollDelay", "0s")) <= 0:
            yield f"privateKeyProvider.{name} needs a pollDelay above 0s"
    if config.get("connectionSettings", {}).get("globalDownstreamConnectionLimit") == 0:
        yield "connectionSettings.globalDownstreamConnectionLimit must be above 0: leave it out for no limit"


def _address(address: str, name: str, hint: str = "") -> Iterator[str]:
    try:
        split_address(address)
    except ValueError as e:
        yield f"{name} {address!r} is not usable: {e}{', ' + hint if hint else ''}"


def _tls(tls: Mapping[str, Any], name: str) -> Iterator[str]:
    if tls.get("mode") == "MUTUAL" and not (tls.get("clientCertificate") and tls.get("privateKey")):
        yield f"{name} with mode MUTUAL needs clientCertificate and privateKey"


def _tracing(tracing: Mapping[str, Any]) -> Iterator[str]:
    for name in ("zipkin", "lightstep", "datadog"):
        if name in tracing:
            yield from _address(tracing[name].get("address", ""), f"tracing.{name}.address")
    if "lightstep" in tracing and not tracing["lightstep"].get("accessToken"):
        yield "tracing.lightstep needs an accessToken"
    yield from _tls(tracing.get("tlsSettings", {}), "tracing.tlsSettings")
    for tag, source in tracing.get("customTags", {}).items():
        for kind, key in (("literal", "value"), ("environment", "name"), ("header", "name")):
            if kind in source and not source[kind].get(key):
                yield f"tracing.customTags.{tag}.{kind} needs a {key}"
