"""Clusters and endpoints in istio's shape."""

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterLbPolicy
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import UpstreamTlsContext

from agent.lab import clusters
from agent.lab.mesh import parse
from agent.lab.transport import MESH_ALPN

TEXT = """\
trust_domain: example.org
mtls: STRICT
services:
  - {name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080}
  - {name: idle, namespace: demo, vip: 10.96.0.3, port: 80}
workloads:
  - {name: b1, namespace: demo, service_account: one, ip: 10.77.0.11, service: b}
  - {name: b2, namespace: demo, service_account: two, ip: 10.77.0.12, service: b}
  - {name: b3, namespace: demo, service_account: one, ip: 10.77.0.13, service: b}
"""
MESH = parse(TEXT)
SERVICE, IDLE = MESH.services


def tls_of(cluster: Cluster) -> UpstreamTlsContext:
    match = cluster.transport_socket_matches[0]
    assert match.match.to_dict() == {"tlsMode": "istio"}
    return UpstreamTlsContext.parse(match.transport_socket.typed_config.value)


def test_outbound() -> None:
    cluster = clusters.outbound(MESH, SERVICE)
    assert cluster.name == cluster.eds_cluster_config.service_name == "outbound|80||b.demo.svc.cluster.local"
    assert cluster.alt_stat_name == f"{cluster.name};"
    assert cluster.type is ClusterDiscoveryType.EDS
    assert cluster.eds_cluster_config.eds_config.ads is not None
    assert cluster.connect_timeout.total_seconds() == 1


def test_outbound_tls_accepts_exactly_the_identities_behind_the_service() -> None:
    tls = tls_of(clusters.outbound(MESH, SERVICE))
    assert tls.sni == "outbound_.80_._.b.demo.svc.cluster.local"
    common = tls.common_tls_context
    assert common.alpn_protocols == list(MESH_ALPN) == ["istio-peer-exchange", "istio"]
    assert [c.name for c in common.tls_certificate_sds_secret_configs] == ["default"]
    combined = common.combined_validation_context
    assert combined.validation_context_sds_secret_config.name == "ROOTCA"
    names = [m.matcher.exact for m in combined.default_validation_context.match_typed_subject_alt_names]
    assert names == ["spiffe://example.org/ns/demo/sa/one", "spiffe://example.org/ns/demo/sa/two"]


def test_a_service_without_workloads_trusts_nobody() -> None:
    combined = tls_of(clusters.outbound(MESH, IDLE)).common_tls_context.combined_validation_context
    assert len(combined.default_validation_context.match_typed_subject_alt_names) == 1
    assert clusters.endpoints(MESH, IDLE).endpoints == []


def test_without_mtls_there_is_no_tls() -> None:
    mesh = parse(TEXT.replace("STRICT", "DISABLE"))
    assert clusters.outbound(mesh, mesh.services[0]).transport_socket_matches == []
    (locality,) = clusters.endpoints(mesh, mesh.services[0]).endpoints
    assert "envoy.transport_socket_match" not in locality.lb_endpoints[0].metadata.filter_metadata


def test_endpoints() -> None:
    (locality,) = clusters.endpoints(MESH, SERVICE).endpoints
    found = [e.endpoint.address.socket_address for e in locality.lb_endpoints]
    assert [(a.address, a.port_value) for a in found] == [(f"10.77.0.{n}", 8080) for n in (11, 12, 13)]
    match = locality.lb_endpoints[0].metadata.filter_metadata["envoy.transport_socket_match"]
    assert match.to_dict() == {"tlsMode": "istio"}


def test_inbound_reaches_the_application_from_the_marked_address() -> None:
    cluster = clusters.inbound(SERVICE, "127.0.0.6")
    assert cluster.name == "inbound|8080||"
    assert (cluster.type, cluster.lb_policy) == (ClusterDiscoveryType.ORIGINAL_DST, ClusterLbPolicy.CLUSTER_PROVIDED)
    assert cluster.upstream_bind_config.source_address.address == "127.0.0.6"


def test_builtin_clusters() -> None:
    by_name = {c.name: c for c in clusters.builtin("::6")}
    assert set(by_name) == {"BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster"}
    assert by_name["PassthroughCluster"].upstream_bind_config is None
    assert by_name["InboundPassthroughCluster"].upstream_bind_config.source_address.address == "::6"
    assert by_name["BlackHoleCluster"].load_assignment is None
