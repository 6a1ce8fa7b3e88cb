"""The node part of the bootstrap: what the control plane learns about this proxy (spec/agent.md 5.2). Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.config import AgentConfig
from agent.errors import ConfigError
from agent.settings.proxyconfig import SRV, plane_addresses, split_address
from agent.version import ISTIO_VERSION

Warn = Callable[[str], None]

META, META_JSON = "ISTIO_META_", "ISTIO_METAJSON_"
LOCALITY, LOCALITY_OLD = "topology.istio.io/locality", "istio-locality"
CANONICAL = "service.istio.io/canonical-name"
ISTIOD = "istiod.istio-system.svc"
DEFAULT_CLUSTER = "istio-proxy"

# Written as "true" or left out, whatever Go spelling of a boolean the variable holds.
BOOLEANS = (
    "DNS_CAPTURE",
    "DNS_AUTO_ALLOCATE",
    "ENABLE_HBONE",
    "DISABLE_HBONE_SEND",
    "ENABLE_SELF_DISCOVERY",
    "INBOUND_LISTENER_EXACT_BALANCE",
    "OUTBOUND_LISTENER_EXACT_BALANCE",
)
# Carried as the text that they are.
TEXTS = (
    "CLUSTER_ID",
    "MESH_ID",
    "NETWORK",
    "NODE_NAME",
    "WORKLOAD_NAME",
    "OWNER",
    "INTERCEPTION_MODE",
    "APP_CONTAINERS",
    "ISTIO_PROXY_SHA",
    "HTTP_PROXY_PORT",
    "HTTP10",
    "IDLE_TIMEOUT",
    "GENERATOR",
    "AUTO_REGISTER_GROUP",
    "WORKLOAD_ENTRY",
    "UNPRIVILEGED_POD",
    "CLOUDRUN_ADDR",
    "ISTIO_REVISION",
    "BASE",
    "TLS_SERVER_CERT_CHAIN",
    "TLS_SERVER_KEY",
    "TLS_SERVER_ROOT_CERT",
    "TLS_CLIENT_CERT_CHAIN",
    "TLS_CLIENT_KEY",
    "TLS_CLIENT_ROOT_CERT",
    "DNS_PROXY_ADDR",
    "REQUESTED_NETWORK_VIEW",
)
TRUE = ("1", "t", "T", "TRUE", "true", "True")
FALSE = ("0", "f", "F", "FALSE", "false", "False")


def readable(text: str) -> str:
    """`text` without the bytes that are not UTF-8 (the environment may hold any): JSON cannot carry them."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def strict_json(text: str) -> Any:
    """Parsed JSON without what only Python reads or writes (NaN, infinities); raises ValueError."""
    return json.loads(readable(text), parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text} is not a JSON number that Envoy could read")
    return value


def raw(config: AgentConfig, warn: Warn) -> dict[str, Any]:
    """Metadata as configured: proxyMetadata, then ISTIO_META_*, then the keys of every ISTIO_METAJSON_* object."""
    out: dict[str, Any] = {}
    for source in (config.proxy_config.get("proxyMetadata", {}), config.environ):
        for name, value in source.items():
            if name.startswith(META) and name != META:
                out[name[len(META) :]] = readable(value)
    for name in config.environ:
        if name.startswith(META_JSON):
            out.update(_json_object(config.environ, name, warn))
    if address := config.environ.get("DNS_PROXY_ADDR"):
        out["DNS_PROXY_ADDR"] = readable(address)
    return out


def _json_object(environ: Mapping[str, str], name: str, warn: Warn) -> dict[str, Any]:
    text = environ.get(name)
    if text is None:
        return {}
    try:
        value = strict_json(text)
    except ValueError as e:
        warn(f"{name} is ignored: it is not JSON ({e})")
        return {}
    if not isinstance(value, dict):
        warn(f"{name} is ignored: it must be a JSON object")
        return {}
    return value


def labels(config: AgentConfig, warn: Warn) -> tuple[dict[str, Any], dict[str, Any]]:
    """(LABELS, STATIC_LABELS): the second from ISTIO_METAJSON_LABELS and the cloud, the first adds those of a pod."""
    given = _json_object(config.environ, f"{META_JSON}LABELS", lambda _: None)
    static = {**given, **config.platform.labels}
    merged = {
        **(static if config.node.has_podinfo else given),
        **{k: v for k, v in config.node.labels.items() if k != "pod-template-hash"},
    }
    if locality := _locality_label(merged):
        merged[LOCALITY_OLD] = locality
    return merged, static


def _locality_label(found: Mapping[str, Any]) -> str:
    value = str(found.get(LOCALITY) or found.get(LOCALITY_OLD) or "")
    return value if "/" in value else value.replace(".", "/")


def locality(found: Mapping[str, Any], platform: Sequence[str] = ()) -> dict[str, str]:
    """node.locality from the (sanitised) label, else from the platform; pieces that are missing are left out."""
    label = _locality_label(found)
    pieces = label.split("/") if label else platform
    return {key: piece for key, piece in zip(("region", "zone", "sub_zone"), pieces, strict=False) if piece}


def build(config: AgentConfig, warn: Warn) -> dict[str, Any]:
    """node.metadata, keys sorted. Raises ConfigError for values that the control plane would refuse."""
    given = raw(config, warn)
    # What the typed layer does not print keeps its original text: `DNS_CAPTURE: "false"`, an empty NETWORK, ...
    return dict(sorted(_readable_tree({**given, **_typed(config, given, warn)}).items()))


def build_typed(config: AgentConfig, warn: Warn) -> dict[str, Any]:
    """Only the keys that the control plane knows, sorted; raises ConfigError as `build` does."""
    given = raw(config, warn)
    known = {key: value for key, value in given.items() if key in TEXTS and value != ""}
    return dict(sorted(_readable_tree({**known, **_typed(config, given, warn)}).items()))


def _typed(config: AgentConfig, given: Mapping[str, Any], warn: Warn) -> dict[str, Any]:
    all_labels, static = labels(config, warn)
    node, boot, envoy = config.node, config.bootstrap, config.envoy
    typed: dict[str, Any] = {
        "PROXY_CONFIG": dict(config.proxy_config),
        "ISTIO_VERSION": given.get("ISTIO_VERSION") or ISTIO_VERSION,
        "LABELS": all_labels,
        "STATIC_LABELS": static,
        "ANNOTATIONS": dict(node.annotations),
        "INSTANCE_IPS": ",".join(node.ips),
        "NAME": node.pod_name,
        "NAMESPACE": node.namespace,
        "SERVICE_ACCOUNT": node.service_account,
        "METADATA_DISCOVERY": "true" if boot.metadata_discovery else "false",
        "ENVOY_SKIP_DEPRECATED_LOGS": "true" if boot.skip_deprecated_logs else "",
        "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true" if envoy.exit_on_zero_connections else "",
        "ENVOY_STATUS_PORT": envoy.status_port,
        "ENVOY_PROMETHEUS_PORT": envoy.stats_port,
        "ENVOY_SECURE_METRICS_PORT": boot.secure_metrics_port,
        "ENVOY_SECURE_MERGED_METRICS_PORT": boot.secure_merged_metrics_port,
        "STS_PORT": str(boot.sts_port) if boot.sts_port else "",
        "OUTLIER_LOG_PATH": boot.outlier_log_path,
        "WORKLOAD_IDENTITY_SOCKET_FILE": boot.sds_socket_file,
        "credential": "true" if boot.credential_socket else "",
        "file-credential": "true" if boot.external_sds else "",
        "PLATFORM_METADATA": dict(config.platform.metadata),
        "POD_PORTS": _pod_ports(given.get("POD_PORTS")),
    }
    typed.update({name: _boolean(name, given.get(name)) for name in BOOLEANS})
    if config.proxy_config.get("controlPlaneAuthPolicy") == "MUTUAL_TLS":
        addresses = [a for a in plane_addresses(config.proxy_config["discoveryAddress"]) if not a.startswith(SRV)]
        hosts = dict.fromkeys(split_address(address)[0] for address in addresses)
        typed["PILOT_SAN"] = [ISTIOD if host == "localhost" else host for host in hosts]
    return {key: value for key, value in typed.items() if value not in ("", 0, {}, [])}


def _readable_tree(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, Mapping):
        return {readable(k): _readable_tree(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_readable_tree(v) for v in value]
    return value


def _boolean(name: str, value: Any) -> str:
    if value in (None, "", *FALSE) or value is False:
        return ""
    if value in TRUE or value is True:
        return "true"
    raise ConfigError(f"{META}{name}={value!r} is not a boolean: write true or false")


def _pod_ports(value: Any) -> str:
    """The same ports in the control plane's own spelling, a JSON text; "" if there are none."""
    if value in (None, ""):
        return ""
    try:
        ports = strict_json(value) if isinstance(value, str) else value
        if not isinstance(ports, list):
            raise ValueError("it must be a list")
        out = [_pod_port(port) for port in ports]
    except ValueError as e:
        raise ConfigError(f"{META}POD_PORTS is not a JSON list of container ports: {e}") from None
    return json.dumps(out, separators=(",", ":"), ensure_ascii=False) if out else ""


def _pod_port(port: Any) -> dict[str, Any]:
    number = port.get("containerPort", 0) if isinstance(port, dict) else None
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{port!r} has no whole containerPort")
    out: dict[str, Any] = {"name": port["name"]} if port.get("name") else {}
    return {**out, "containerPort": number, "protocol": port.get("protocol") or ""}


def cluster(config: AgentConfig, metadata: Mapping[str, Any]) -> str:
    """node.cluster: the configured service cluster, or a name made from labels, workload and namespace."""
    found = metadata.get("LABELS", {})
    workload = metadata.get("WORKLOAD_NAME", "")
    namespace = metadata.get("NAMESPACE", "")

    def qualified(name: str) -> str:
        return f"{name}.{namespace}" if namespace else name

    canonical = (
        found.get(CANONICAL) or found.get("app.kubernetes.io/name") or found.get("app") or workload or DEFAULT_CLUSTER
    )
    scheme = config.proxy_config.get("tracingServiceName")
    if scheme == "CANONICAL_NAME_ONLY":
        return str(canonical)
    if scheme == "CANONICAL_NAME_AND_NAMESPACE":
        return qualified(canonical)
    if (name := config.proxy_config.get("serviceCluster", "")) and name != DEFAULT_CLUSTER:
        return str(name)
    app = found.get("app") or found.get("app.kubernetes.io/name") or found.get(CANONICAL)
    return qualified(app or workload or DEFAULT_CLUSTER)
