"""Static clusters of the bootstrap, and the tracer and sinks that use them (spec 5.7, 5.9). Pure."""

from collections.abc import Mapping
from posixpath import normpath
from typing import Any

from agent.config import AgentConfig
from agent.durations import proto_nanos
from agent.settings.proxyconfig import split_address

TYPE = "type.googleapis.com/envoy."
SDS_FILES_SOCKET = "./var/run/secrets/credential-uds/files-socket"
SDS_DIR = "./var/run/secrets/workload-spiffe-uds"
MANY = 100000
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def tcp(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, address: Mapping[str, Any], timeout: str = "1s", **extra: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "alt_stat_name": f"{name};",
        "type": "STATIC",
        "connect_timeout": timeout,
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **extra,
    }


def sds_secret(name: str, *, wait: bool = False) -> dict[str, Any]:
    """A secret fetched from the agent; `wait`: hold what needs it until it is there, however long."""
    source = {
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
        },
        "resource_api_version": "V3",
    }
    return {"name": name, "sds_config": {**source, "initial_fetch_timeout": "0s"} if wait else source}


def clusters(config: AgentConfig, localhost: str, dns_family: str, self_discovery: bool) -> list[dict[str, Any]]:
    """Every static cluster, in istio's order."""
    sds_pipe = {"pipe": {"path": f"{SDS_DIR}/{config.bootstrap.sds_socket_file}"}}
    limits = {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}
    out = [
        _cluster("prometheus_stats", tcp(localhost, config.envoy.admin_port), "0.250s"),
        _cluster("agent", tcp(localhost, config.status.port), "0.250s"),
        _cluster("sds-grpc", sds_pipe, typed_extension_protocol_options=HTTP2),
    ]
    if config.bootstrap.external_sds:
        pipe = {"pipe": {"path": SDS_FILES_SOCKET}}
        out.append(_cluster("sds-files-grpc", pipe, typed_extension_protocol_options=HTTP2))
    out.append(
        _cluster(
            "xds-grpc",
            {"pipe": {"path": config.xds.socket_path}},
            typed_extension_protocol_options=HTTP2,
            circuit_breakers={"thresholds": [{"priority": p, **limits} for p in ("DEFAULT", "HIGH")]},
            upstream_connection_options={"tcp_keepalive": {"keepalive_time": 300}},
            max_requests_per_connection=1,
        )
    )
    out += _tracer_clusters(config, dns_family)
    for field, name in (
        ("envoyMetricsService", "envoy_metrics_service"),
        ("envoyAccessLogService", "envoy_accesslog_service"),
    ):
        if address := config.proxy_config.get(field, {}).get("address"):
            out.append(_remote(config, name, address, dns_family, config.proxy_config[field], http2=True))
    if self_discovery:
        out.append(_local_cluster())
    return out


def _local_cluster() -> dict[str, Any]:
    least_request = {
        "name": "envoy.load_balancing_policies.least_request",
        "typed_config": {
            "@type": f"{TYPE}extensions.load_balancing_policies.least_request.v3.LeastRequest",
            "locality_lb_config": {"zone_aware_lb_config": {"min_cluster_size": "1"}},
        },
    }
    return {
        "name": "local_cluster",
        "alt_stat_name": "local_cluster;",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "service_name": "local_cluster",
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "load_balancing_policy": {"policies": [{"typed_extension_config": least_request}]},
    }


def _remote(
    config: AgentConfig, name: str, address: str, dns_family: str, service: Mapping[str, Any], *, http2: bool
) -> dict[str, Any]:
    host, port = _target(config, address)
    extra: dict[str, Any] = {"respect_dns_ttl": True, "dns_lookup_family": dns_family}
    if http2:
        extra["typed_extension_protocol_options"] = HTTP2
    if keepalive := service.get("tcpKeepalive"):
        extra["upstream_connection_options"] = {"tcp_keepalive": _keepalive(keepalive)}
    if socket := _tls(config, service.get("tlsSettings", {}), name, http2):
        extra["transport_socket"] = socket
    return _cluster(name, tcp(host, port), **{"type": "STRICT_DNS", **extra})


def _target(config: AgentConfig, address: str) -> tuple[str, int]:
    host = config.bootstrap.host_ip
    shown = f"[{host}]" if ":" in host else host
    return split_address(address.replace("$(HOST_IP)", shown) if host else address)


def _keepalive(given: Mapping[str, Any]) -> dict[str, int]:
    out = {"keepalive_probes": int(given["probes"])} if given.get("probes") else {}
    for key in ("time", "interval"):
        if key in given:
            out[f"keepalive_{key}"] = proto_nanos(given[key]) // 1_000_000_000
    return out


def _tls(config: AgentConfig, tls: Mapping[str, Any], name: str, http2: bool) -> dict[str, Any] | None:
    """The transport socket for ClientTLSSettings; None for plaintext."""
    mode = tls.get("mode", "DISABLE")
    if mode == "DISABLE":
        return None
    metadata = config.proxy_config.get("proxyMetadata", {})
    common: dict[str, Any] = {}
    sni = tls.get("sni", "")
    if mode == "ISTIO_MUTUAL":
        common["alpn_protocols"] = ["istio", "h2"] if http2 else ["istio"]
        common["tls_certificate_sds_secret_configs"] = [sds_secret("default", wait=True)]
        root = sds_secret("ROOTCA", wait=True)
        sni = sni or ("tracer" if name in TRACERS.values() else name)
    else:
        if http2:
            common["alpn_protocols"] = ["h2"]
        ca = metadata.get("ISTIO_META_TLS_CLIENT_ROOT_CERT") or tls.get("caCertificates") or "system"
        root = sds_secret(f"file-root:{ca}")
        if mode == "MUTUAL":
            cert = metadata.get("ISTIO_META_TLS_CLIENT_CERT_CHAIN") or tls.get("clientCertificate", "")
            key = metadata.get("ISTIO_META_TLS_CLIENT_KEY") or tls.get("privateKey", "")
            common["tls_certificate_sds_secret_configs"] = [sds_secret(f"file-cert:{cert}~{key}")]
    names = [{"exact": san} for san in tls.get("subjectAltNames", ())]
    common["combined_validation_context"] = {
        "default_validation_context": {"match_subject_alt_names": names} if names else {},
        "validation_context_sds_secret_config": root,
    }
    context: dict[str, Any] = {
        "@type": f"{TYPE}extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    }
    if sni:
        context["sni"] = sni
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


TRACERS = {"zipkin": "zipkin", "lightstep": "lightstep", "datadog": "datadog_agent"}


def _tracer_clusters(config: AgentConfig, dns_family: str) -> list[dict[str, Any]]:
    tracing = config.proxy_config.get("tracing", {})
    out = []
    for field, name in TRACERS.items():
        if field in tracing:
            cluster = _remote(config, name, tracing[field]["address"], dns_family, tracing, http2=field == "lightstep")
            if field == "zipkin":
                cluster["dns_refresh_rate"] = "30s"
            out.append(cluster)
    return out


def lightstep_token_file(config: AgentConfig) -> str:
    return normpath(f"{config.envoy.config_dir}/lightstep_access_token.txt")


def tracing(config: AgentConfig, node_cluster: str) -> dict[str, Any] | None:
    """The bootstrap's `tracing`, or None without a tracer that Envoy knows."""
    given = config.proxy_config.get("tracing", {})
    if "zipkin" in given:
        name, kind, fields = "zipkin", "ZipkinConfig", {
            "collector_cluster": "zipkin",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
            "trace_id_128bit": True,
            "shared_span_context": False,
        }  # fmt: skip
    elif "lightstep" in given:
        name, kind = "lightstep", "LightstepConfig"
        fields = {"collector_cluster": "lightstep", "access_token_file": lightstep_token_file(config)}
    elif "datadog" in given:
        name, kind = "datadog", "DatadogConfig"
        fields = {"collector_cluster": "datadog_agent", "service_name": node_cluster}
    else:
        return None
    typed = {"@type": f"{TYPE}config.trace.v3.{kind}", **fields}
    return {"http": {"name": f"envoy.tracers.{name}", "typed_config": typed}}


def stats_sinks(config: AgentConfig) -> list[dict[str, Any]]:
    """Where Envoy pushes its statistics."""
    out: list[dict[str, Any]] = []
    if config.proxy_config.get("envoyMetricsService", {}).get("address"):
        typed: dict[str, Any] = {
            "@type": f"{TYPE}config.metrics.v3.MetricsServiceConfig",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "envoy_metrics_service"}},
        }
        out.append({"name": "envoy.stat_sinks.metrics_service", "typed_config": typed})
    if address := config.proxy_config.get("statsdUdpAddress"):
        typed = {"@type": f"{TYPE}config.metrics.v3.StatsdSink", "address": tcp(*split_address(address))}
        out.append({"name": "envoy.stat_sinks.statsd", "typed_config": typed})
    return out
