"""Static clusters, tracers and sinks."""

from typing import Any

import pytest

from agent.envoy.bootstrap_clusters import clusters, stats_sinks, tracing
from tests.fakes.configs import make


def named(self_discovery: bool = False, **kwargs: Any) -> dict[str, dict[str, Any]]:
    return {c["name"]: c for c in clusters(make(**kwargs), "127.0.0.1", "V4_ONLY", self_discovery)}


def endpoint(cluster: dict[str, Any]) -> Any:
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    return address["pipe"]["path"] if "pipe" in address else tuple(address["socket_address"].values())


def test_a_plain_pod() -> None:
    found = named(proxy={"proxyAdminPort": 1, "statusPort": 2, "configPath": "c"})
    assert {name: endpoint(c) for name, c in found.items()} == {
        "prometheus_stats": ("127.0.0.1", 1),
        "agent": ("127.0.0.1", 2),
        "sds-grpc": "./var/run/secrets/workload-spiffe-uds/socket",
        "xds-grpc": "c/XDS",
    }
    assert all(c["alt_stat_name"] == f"{name};" for name, c in found.items())


def test_external_sds_and_self_discovery() -> None:
    found = named(True, sockets=["./var/run/secrets/workload-spiffe-uds/socket"])
    assert endpoint(found["sds-files-grpc"]) == "./var/run/secrets/credential-uds/files-socket"
    assert endpoint(found["sds-grpc"]) == "./var/run/secrets/workload-spiffe-uds/socket"
    assert found["local_cluster"]["type"] == "EDS"


@pytest.mark.parametrize(
    ("host", "address", "want"),
    [
        ("10.0.0.9", "$(HOST_IP):8126", ("10.0.0.9", 8126)),
        ("fd00::9", "$(HOST_IP):8126", ("fd00::9", 8126)),
        ("", "dd:8126", ("dd", 8126)),
    ],
)
def test_host_ip(host: str, address: str, want: tuple[str, int]) -> None:
    found = named(proxy={"tracing": {"datadog": {"address": address}}}, env={"HOST_IP": host})
    assert endpoint(found["datadog_agent"]) == want


def context(proxy: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = named(proxy=proxy)[name]["transport_socket"]["typed_config"]
    return found


def test_simple_tls() -> None:
    tls = {"mode": "SIMPLE", "caCertificates": "/ca", "sni": "s", "subjectAltNames": ["a"]}
    found = context({"tracing": {"zipkin": {"address": "z:1"}, "tlsSettings": tls}}, "zipkin")
    validation = found["common_tls_context"]["combined_validation_context"]
    assert found["sni"] == "s"
    assert "alpn_protocols" not in found["common_tls_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "file-root:/ca"
    assert validation["default_validation_context"] == {"match_subject_alt_names": [{"exact": "a"}]}


def test_proxy_metadata_wins_over_the_ca_file() -> None:
    proxy = {
        "tracing": {"zipkin": {"address": "z:1"}, "tlsSettings": {"mode": "SIMPLE", "caCertificates": "/ca"}},
        "proxyMetadata": {"ISTIO_META_TLS_CLIENT_ROOT_CERT": "/meta"},
    }
    validation = context(proxy, "zipkin")["common_tls_context"]["combined_validation_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "file-root:/meta"


def test_mutual_tls_and_keepalive() -> None:
    tls = {"mode": "MUTUAL", "caCertificates": "/ca", "clientCertificate": "/c", "privateKey": "/k"}
    service = {"address": "als:1", "tlsSettings": tls, "tcpKeepalive": {"probes": 3, "time": "10s", "interval": "20s"}}
    proxy = {"envoyAccessLogService": service}
    common = context(proxy, "envoy_accesslog_service")["common_tls_context"]
    assert common["alpn_protocols"] == ["h2"]
    assert common["tls_certificate_sds_secret_configs"][0]["name"] == "file-cert:/c~/k"
    keepalive = named(proxy=proxy)["envoy_accesslog_service"]["upstream_connection_options"]["tcp_keepalive"]
    assert keepalive == {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 20}


def test_mesh_tls() -> None:
    lightstep = {"lightstep": {"address": "l:1", "accessToken": "t"}, "tlsSettings": {"mode": "ISTIO_MUTUAL"}}
    found = context({"tracing": lightstep}, "lightstep")
    assert found["sni"] == "tracer"
    assert found["common_tls_context"]["alpn_protocols"] == ["istio", "h2"]
    service = {"address": "m:1", "tlsSettings": {"mode": "ISTIO_MUTUAL"}}
    assert context({"envoyMetricsService": service}, "envoy_metrics_service")["sni"] == "envoy_metrics_service"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"zipkin": {"address": "z:1"}}, "envoy.tracers.zipkin"),
        ({"datadog": {"address": "d:1"}}, "envoy.tracers.datadog"),
        ({"lightstep": {"address": "l:1", "accessToken": "t"}}, "envoy.tracers.lightstep"),
        ({"sampling": 5}, None),
    ],
)
def test_tracers(given: dict[str, Any], name: str | None) -> None:
    found = tracing(make(proxy={"tracing": given}), "svc")
    assert (found and found["http"]["name"]) == name


def test_sinks() -> None:
    assert stats_sinks(make()) == []
    found = stats_sinks(make(proxy={"statsdUdpAddress": "10.0.0.1:2", "envoyMetricsService": {"address": "m:1"}}))
    assert [s["name"] for s in found] == ["envoy.stat_sinks.metrics_service", "envoy.stat_sinks.statsd"]
    assert found[1]["typed_config"]["address"] == {"socket_address": {"address": "10.0.0.1", "port_value": 2}}
