"""Envoy's bootstrap as data (spec/agent.md 5). Pure: no clock, no files; the caller writes it."""

from collections.abc import Mapping
from typing import Any

from agent.config import AgentConfig, Role
from agent.envoy import metadata
from agent.envoy.bootstrap_clusters import TYPE, clusters, lightstep_token_file, stats_sinks, tcp, tracing
from agent.envoy.bootstrap_listeners import listeners
from agent.envoy.bootstrap_stats import intervals, stats_config
from agent.envoy.metadata import Warn, strict_json
from agent.errors import ConfigError

TYPED_STRUCT = "type.googleapis.com/udpa.type.v1.TypedStruct"
NO_LIMIT = 2147483647
LIMIT_RUNTIME = "overload.global_downstream_max_connections"
# Envoy's own default lets it wait up to a second before it dials its agent again; the agent is next door.
RE_DIAL = {"retry_back_off": {"base_interval": "0.02s", "max_interval": "1s"}}
_TIME = "%Y-%m-%dT%T.%fZ"
JSON_LOG = {"time": _TIME, "level": "%l", "scope": "envoy %n", "msg": "%j", "caller": "%g:%#", "thread": "%t"}
TEXT_LOG = f"{_TIME}\t%l\tenvoy %n %g:%#\t%v\tthread=%t"


def _ignore(_: str) -> None:
    return None


def render(config: AgentConfig, warn: Warn = _ignore) -> dict[str, Any]:
    """The bootstrap for `config`; `warn(sentence)` hears what was left out. Raises ConfigError for what cannot work."""
    if config.bootstrap.custom is not None:
        return dict(config.bootstrap.custom)
    meta = metadata.build(config, warn)
    cluster = metadata.cluster(config, meta)
    waypoint = config.node.role is Role.WAYPOINT
    discovery = waypoint or (meta["METADATA_DISCOVERY"] == "true" and config.xds.delta)
    localhost, wildcard, other_wildcard, family = _addresses(config)
    self_discovery = meta.get("ENABLE_SELF_DISCOVERY") == "true"
    out: dict[str, Any] = {
        "application_log_config": {
            "log_format": {"json_format": JSON_LOG} if config.log.json else {"text_format": TEXT_LOG}
        },
        "node": {
            "id": config.node.id,
            "cluster": cluster,
            "locality": metadata.locality(meta.get("LABELS", {}), config.platform.locality),
            "metadata": meta,
        },
        "layered_runtime": {
            "layers": [
                {"name": "global config", "static_layer": _runtime(config)},
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "bootstrap_extensions": _extensions(discovery),
        **intervals(config, warn),
        "stats_config": stats_config(config, discovery, warn),
        "admin": {
            "access_log": [
                {
                    "name": "envoy.access_loggers.file",
                    "typed_config": {
                        "@type": f"{TYPE}extensions.access_loggers.file.v3.FileAccessLog",
                        "path": "/dev/null",
                    },
                }
            ],
            "profile_path": "/var/lib/istio/data/envoy.prof",
            "address": tcp(localhost, config.envoy.admin_port),
        },
        "dynamic_resources": _dynamic(config),
        "static_resources": {
            "clusters": clusters(config, localhost, family, self_discovery),
            "listeners": listeners(config, localhost, wildcard, other_wildcard),
        },
        "overload_manager": _overload(config),
    }
    if tracer := tracing(config, cluster):
        out["tracing"] = tracer
    if sinks := stats_sinks(config):
        out["stats_sinks"] = sinks
    if manager := _cluster_manager(config, meta, self_discovery):
        out["cluster_manager"] = manager
    out["deferred_stat_options"] = {"enable_deferred_creation_stats": True}
    return out


def side_files(config: AgentConfig) -> dict[str, str]:
    """Path → content of further files that the bootstrap refers to."""
    lightstep = config.proxy_config.get("tracing", {}).get("lightstep")
    return {lightstep_token_file(config): lightstep["accessToken"]} if lightstep else {}


def _addresses(config: AgentConfig) -> tuple[str, str, str, str]:
    """(localhost, wildcard, wildcard of the other family or "", DNS lookup family)."""
    v4 = ("127.0.0.1", "0.0.0.0", "", "V4_ONLY")
    v6 = ("::1", "::", "", "V6_ONLY")
    if config.node.all_v6:
        return v6
    if not config.bootstrap.dual_stack or not any(":" in ip for ip in config.node.ips):
        return v4
    first, second = (v6, v4) if ":" in config.node.ips[0] else (v4, v6)
    return first[0], first[1], second[1], "ALL"


def _runtime(config: AgentConfig) -> dict[str, Any]:
    feature = "envoy.reloadable_features."
    listener = "envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst"
    out: dict[str, Any] = {
        f"envoy.deprecated_features:{listener}": True,
        "re2.max_program_size.error_level": "32768",
        f"{feature}http_reject_path_with_fragment": False,
        f"{feature}fixed_heap_use_allocated": True,
        f"{feature}coalesce_lb_rebuilds_on_batch_update": False,
    }
    if config.bootstrap.compliance == "fips-140-2":
        out[f"{feature}google_grpc_disable_tls_13"] = True
    if not config.bootstrap.strip_fragment:
        out[f"{feature}http_strip_fragment_from_path_unsafe_if_disabled"] = "false"
    for key, value in config.proxy_config.get("runtimeValues", {}).items():
        if value:
            out[key] = {"true": True, "false": False}.get(value, value)
        else:
            out.pop(key, None)
    return out


def _extensions(discovery: bool) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    if discovery:
        wrapped: dict[str, Any] = {
            "@type": TYPED_STRUCT,
            "type_url": "type.googleapis.com/istio.workload.BootstrapExtension",
            "value": {"config_source": {"ads": {}}},
        }
        out.append({"name": "metadata_discovery", "typed_config": wrapped})
    internal = {
        "@type": TYPED_STRUCT,
        "type_url": f"{TYPE}extensions.bootstrap.internal_listener.v3.InternalListener",
        "value": {"buffer_size_kb": 64},
    }
    return [*out, {"name": "envoy.bootstrap.internal_listener", "typed_config": internal}]


def _dynamic(config: AgentConfig) -> dict[str, Any]:
    from_ads = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    return {
        "lds_config": from_ads,
        "cds_config": from_ads,
        "ads_config": {
            "api_type": "DELTA_GRPC" if config.xds.delta else "GRPC",
            "set_node_on_first_message_only": True,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc", "retry_policy": RE_DIAL}}],
        },
    }


def _overload(config: AgentConfig) -> dict[str, Any]:
    proxy = config.proxy_config
    limit: Any = proxy.get("connectionSettings", {}).get("globalDownstreamConnectionLimit", 0)
    limit = limit or _positive(proxy.get("proxyMetadata", {}).get("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", ""))
    limit = limit or proxy.get("runtimeValues", {}).get(LIMIT_RUNTIME) or NO_LIMIT
    typed = {
        "@type": f"{TYPE}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": limit,
    }
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return {"resource_monitors": [{"name": name, "typed_config": typed}]}


def _positive(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _cluster_manager(config: AgentConfig, meta: Mapping[str, Any], self_discovery: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if path := config.bootstrap.outlier_log_path:
        out["outlier_detection"] = {"event_log_path": path}
    if text := meta.get("LOAD_STATS_CONFIG_JSON"):
        try:
            out["load_stats_config"] = strict_json(text) if isinstance(text, str) else text
        except ValueError as e:
            raise ConfigError(f"ISTIO_META_LOAD_STATS_CONFIG_JSON is not JSON: {e}") from None
    if self_discovery:
        out["local_cluster_name"] = "local_cluster"
    return {**out, "enable_deferred_cluster_creation": True} if out else {}
