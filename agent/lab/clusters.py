"""Clusters and their endpoints, named and shaped as istiod's."""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
    ClusterTransportSocketMatch,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    Locality,
    Metadata,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsUseDownstreamHttpConfig,
)
from envoy_data_plane.google.protobuf import Struct

from agent.lab import transport
from agent.lab.mesh import Mesh, Mtls, Service, Workload

PASSTHROUGH = "PassthroughCluster"
INBOUND_PASSTHROUGH = "InboundPassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_NO_LIMIT = 2**32 - 1
_DIAL = timedelta(seconds=1)  # a peer whose Envoy was killed must fail fast
_LOCAL_DIAL = timedelta(seconds=10)


def outbound_name(service: Service) -> str:
    """`outbound|80||b.demo.svc.cluster.local`"""
    return f"outbound|{service.port}||{service.host}"


def inbound_name(service: Service) -> str:
    """`inbound|8080||`"""
    return f"inbound|{service.target_port}||"


def sni(service: Service) -> str:
    """`outbound_.80_._.b.demo.svc.cluster.local`"""
    return f"outbound_.{service.port}_._.{service.host}"


def outbound(mesh: Mesh, service: Service) -> Cluster:
    """A service as its callers see it: endpoints over ADS, mutual TLS to exactly the identities behind it."""
    name = outbound_name(service)
    cluster = Cluster(
        name=name,
        alt_stat_name=f"{name};",
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=transport.ads_source(), service_name=name),
        connect_timeout=_DIAL,
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        circuit_breakers=_unlimited(),
        typed_extension_protocol_options=_same_protocol(),
        metadata=_service_metadata(service),
    )
    if mesh.mtls is not Mtls.DISABLE:
        identities = sorted({mesh.spiffe(workload) for workload in mesh.members(service)})
        # Without workloads nobody can be the right peer; an empty list would accept everyone.
        tls = transport.client_tls(identities or [f"spiffe://{mesh.trust_domain}/"], sni(service))
        cluster.transport_socket_matches = [
            ClusterTransportSocketMatch(
                name="tlsMode-istio", match=Struct.from_dict({"tlsMode": "istio"}), transport_socket=tls
            ),
            ClusterTransportSocketMatch(
                name="tlsMode-disabled", match=Struct.from_dict({}), transport_socket=transport.plaintext()
            ),
        ]
    return cluster


def endpoints(mesh: Mesh, service: Service) -> ClusterLoadAssignment:
    members = [_endpoint(mesh, service, workload) for workload in mesh.members(service)]
    locality = [LocalityLbEndpoints(locality=Locality(), lb_endpoints=members, load_balancing_weight=len(members))]
    return ClusterLoadAssignment(cluster_name=outbound_name(service), endpoints=locality if members else [])


def _endpoint(mesh: Mesh, service: Service, workload: Workload) -> LbEndpoint:
    labels = {"istio": Struct.from_dict({"workload": f"{workload.name};{workload.namespace};{service.name};;lab"})}
    if mesh.mtls is not Mtls.DISABLE:
        labels["envoy.transport_socket_match"] = Struct.from_dict({"tlsMode": "istio"})
    return LbEndpoint(
        endpoint=Endpoint(address=transport.address(workload.ip, service.target_port)),
        metadata=Metadata(filter_metadata=labels),
        load_balancing_weight=1,
    )


def inbound(service: Service, source: str) -> Cluster:
    """The application behind this sidecar, reached at its original address from `source` (127.0.0.6 or ::6)."""
    cluster = _original_destination(inbound_name(service), source)
    cluster.metadata = _service_metadata(service)
    return cluster


def builtin(source: str) -> list[Cluster]:
    """What every sidecar has, whatever the mesh holds."""
    return [
        Cluster(
            name=BLACK_HOLE,
            alt_stat_name=f"{BLACK_HOLE};",
            type=ClusterDiscoveryType.STATIC,
            connect_timeout=_LOCAL_DIAL,
        ),
        _original_destination(PASSTHROUGH, ""),
        _original_destination(INBOUND_PASSTHROUGH, source),
    ]


def _original_destination(name: str, source: str) -> Cluster:
    return Cluster(
        name=name,
        alt_stat_name=f"{name};",
        type=ClusterDiscoveryType.ORIGINAL_DST,
        connect_timeout=_LOCAL_DIAL,
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        circuit_breakers=_unlimited(),
        typed_extension_protocol_options=_same_protocol(),
        upstream_bind_config=transport.bind_to(source) if source else None,
    )


def _unlimited() -> CircuitBreakers:
    limits = CircuitBreakersThresholds(
        max_connections=_NO_LIMIT, max_pending_requests=_NO_LIMIT, max_requests=_NO_LIMIT, max_retries=_NO_LIMIT
    )
    return CircuitBreakers(thresholds=[limits])


def _same_protocol() -> dict[str, object]:
    """HTTP/2 (gRPC) in stays HTTP/2 out; everything else is HTTP/1.1."""
    same = HttpProtocolOptionsUseDownstreamHttpConfig(
        http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=Http2ProtocolOptions()
    )
    return {_HTTP: transport.packed(HttpProtocolOptions(use_downstream_protocol_config=same))}


def _service_metadata(service: Service) -> Metadata:
    row = {"host": service.host, "name": service.name, "namespace": service.namespace}
    return Metadata(filter_metadata={"istio": Struct.from_dict({"services": [row]})})
