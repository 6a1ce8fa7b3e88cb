"""Static listeners of the bootstrap: statistics, health, and the optional mutual TLS ones (spec 5.8). Pure."""

from collections.abc import Sequence
from typing import Any

from agent.config import AgentConfig
from agent.envoy.bootstrap_clusters import TYPE, sds_secret, tcp

COMPRESSIBLE = [
    "text/plain",
    "application/vnd.google.protobuf",
    "application/openmetrics-text",
    "application/openmetrics-protobuf",
]


def listeners(config: AgentConfig, localhost: str, wildcard: str, other_wildcard: str) -> list[dict[str, Any]]:
    """Every static listener. `other_wildcard` is the second family of a dual-stack node, or ""."""
    envoy, boot = config.envoy, config.bootstrap
    local_only = config.proxy_config.get("proxyMetadata", {}).get("METRICS_LOCALHOST_ACCESS_ONLY") == "true"
    compress = config.proxy_config.get("statsCompression", True)
    out = [
        _listener(
            localhost if local_only else wildcard,
            envoy.stats_port,
            "stats",
            [("/stats/prometheus", "prometheus_stats")],
            _compressors() if compress else [],
            "" if local_only else other_wildcard,
        )
    ]
    if port := boot.secure_metrics_port:
        out.append(_secure(wildcard, port, "secure_stats", [("/stats/prometheus", "prometheus_stats")]))
    if port := boot.secure_merged_metrics_port:
        routes = [("/stats/prometheus", "agent"), ("/metrics", "agent")]
        out.append(_secure(wildcard, port, "secure_merged_stats", routes))
    health = _listener(wildcard, envoy.status_port, "agent", [("/healthz/ready", "agent")], [], other_wildcard)
    if boot.proxy_protocol:
        typed = {
            "@type": f"{TYPE}extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            "allow_requests_without_proxy_protocol": True,
        }
        health["listener_filters"] = [{"name": "envoy.listener.proxy_protocol", "typed_config": typed}]
    return [*out, health]


def _compressors() -> list[dict[str, Any]]:
    out = []
    for name in ("brotli", "zstd", "gzip"):
        library = {
            "name": f"stats_{name}",
            "typed_config": {"@type": f"{TYPE}extensions.compression.{name}.compressor.v3.{name.capitalize()}"},
        }
        typed = {
            "@type": f"{TYPE}extensions.filters.http.compressor.v3.Compressor",
            "response_direction_config": {"common_config": {"content_type": COMPRESSIBLE}},
            "compressor_library": library,
        }
        out.append({"name": f"envoy.filters.http.compressor.{name}", "typed_config": typed})
    return out


def _listener(
    address: str,
    port: int,
    prefix: str,
    routes: Sequence[tuple[str, str]],
    filters: list[dict[str, Any]],
    other_address: str = "",
) -> dict[str, Any]:
    router = {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"}
    host = {
        "name": "backend",
        "domains": ["*"],
        "routes": [{"match": {"prefix": path}, "route": {"cluster": cluster}} for path, cluster in routes],
    }
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        "stat_prefix": prefix,
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": router}],
    }
    out: dict[str, Any] = {
        "name": f"{address}_{port}",
        "address": tcp(address, port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
    }
    if other_address:
        out["additional_addresses"] = [{"address": tcp(other_address, port)}]
    return out


def _secure(address: str, port: int, prefix: str, routes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    out = _listener(address, port, prefix, routes, [])
    tls = {
        "@type": f"{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [sds_secret("default")],
            "combined_validation_context": {
                "default_validation_context": {},
                "validation_context_sds_secret_config": sds_secret("ROOTCA"),
            },
        },
    }
    chain = out["filter_chains"][0]
    chain["filter_chain_match"] = {"transport_protocol": "tls"}
    chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    inspector = {"@type": f"{TYPE}extensions.filters.listener.tls_inspector.v3.TlsInspector"}
    out["listener_filters"] = [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}]
    return out
