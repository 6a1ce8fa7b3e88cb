"""Listeners and routes of a sidecar: virtualOutbound, one listener a service, virtualInbound."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    TrafficDirection,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter
from envoy_data_plane.envoy.config.route.v3 import (
    Decorator,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
    Route,
    RouteAction,
    RouteActionMaxStreamDuration,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.listener.original_dst.v3 import OriginalDst
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerForwardClientCertDetails,
    HttpConnectionManagerSetCurrentClientCertDetails,
    HttpConnectionManagerUpgradeConfig,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate

from agent.lab import clusters, transport
from agent.lab.mesh import Mesh, Mtls, Service

VIRTUAL_OUTBOUND_PORT = 15001
VIRTUAL_INBOUND_PORT = 15006
RETRY_ON = "connect-failure,refused-stream,reset-before-request,unavailable"
_TLS_PEER = (*transport.MESH_ALPN, "istio-http/1.0", "istio-http/1.1", "istio-h2")
_INSPECT = timedelta(seconds=5)  # how long a connection may stay silent before its protocol is decided
_HANDSHAKE = timedelta(seconds=15)


def outbound_listener_name(service: Service) -> str:
    """`10.96.0.2_80`"""
    return f"{service.vip}_{service.port}"


def route_name(service: Service) -> str:
    """`b.demo.svc.cluster.local:80`"""
    return f"{service.host}:{service.port}"


def virtual_outbound(mesh: Mesh, wildcard: str) -> Listener:
    """Takes every redirected outgoing connection and hands it to the listener of its original destination, if any."""
    own = FilterChainMatch(destination_port=VIRTUAL_OUTBOUND_PORT)
    return Listener(
        name="virtualOutbound",
        address=transport.address(wildcard, VIRTUAL_OUTBOUND_PORT),
        use_original_dst=True,
        filter_chains=[
            FilterChain(
                name="virtualOutbound-blackhole", filter_chain_match=own, filters=[_tcp(mesh, clusters.BLACK_HOLE)]
            ),
            FilterChain(name="virtualOutbound-catchall-tcp", filters=[_tcp(mesh, clusters.PASSTHROUGH)]),
        ],
        traffic_direction=TrafficDirection.OUTBOUND,
    )


def outbound(mesh: Mesh, service: Service) -> Listener:
    """HTTP to one service address; never bound, only reached through virtualOutbound."""
    manager = _http(mesh, f"outbound_{outbound_listener_name(service)};")
    manager.rds = Rds(config_source=transport.ads_source(), route_config_name=route_name(service))
    return Listener(
        name=outbound_listener_name(service),
        address=transport.address(service.vip, service.port),
        filter_chains=[FilterChain(filters=[_manager_filter(manager)])],
        bind_to_port=False,
        traffic_direction=TrafficDirection.OUTBOUND,
    )


def route(service: Service) -> RouteConfiguration:
    """Everything sent to the service's address, with istio's default retries and the headers of the mesh file."""
    previous = RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=transport.packed(PreviousHostsPredicate())
    )
    retries = RetryPolicy(
        retry_on=RETRY_ON, num_retries=2, retry_host_predicate=[previous], host_selection_retry_max_attempts=5
    )
    host = VirtualHost(
        name=route_name(service),
        domains=["*"],
        routes=[_all_to(clusters.outbound_name(service), route_name(service), retries, service.headers)],
        include_request_attempt_count=True,
    )
    return RouteConfiguration(
        name=route_name(service), virtual_hosts=[host], validate_clusters=False, ignore_port_in_host_matching=True
    )


def virtual_inbound(mesh: Mesh, services: Sequence[Service], wildcard: str) -> Listener:
    """Takes every redirected incoming connection: by service port, else passed through; mTLS as the mesh demands."""
    own = FilterChainMatch(destination_port=VIRTUAL_INBOUND_PORT)
    chains = [
        FilterChain(name="virtualInbound-blackhole", filter_chain_match=own, filters=[_tcp(mesh, clusters.BLACK_HOLE)])
    ]
    ports: dict[int, Service] = {service.target_port: service for service in services}
    for port, service in sorted(ports.items()):
        name, cluster = f"{wildcard}_{port}", clusters.inbound_name(service)
        chains += _protected(mesh, name, port, _manager_filter(_inbound_http(mesh, name, service)), cluster)
    anything = _tcp(mesh, clusters.INBOUND_PASSTHROUGH)
    chains += _protected(mesh, "virtualInbound-catchall", None, anything, clusters.INBOUND_PASSTHROUGH)
    filters = [ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=transport.packed(OriginalDst()))]
    if mesh.mtls is not Mtls.DISABLE:
        inspector = transport.packed(TlsInspector())
        filters.append(ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=inspector))
    return Listener(
        name="virtualInbound",
        address=transport.address(wildcard, VIRTUAL_INBOUND_PORT),
        filter_chains=chains,
        listener_filters=filters,
        listener_filters_timeout=_INSPECT,
        continue_on_listener_filters_timeout=mesh.mtls is Mtls.PERMISSIVE,  # protocols where the server speaks first
        traffic_direction=TrafficDirection.INBOUND,
    )


def _protected(mesh: Mesh, name: str, port: int | None, inner: Filter, cluster: str) -> list[FilterChain]:
    """The filter chains of one destination port, or of all others. A connection that matches none is closed."""
    if mesh.mtls is Mtls.DISABLE:
        return [FilterChain(name=name, filter_chain_match=FilterChainMatch(destination_port=port), filters=[inner])]
    permissive = mesh.mtls is Mtls.PERMISSIVE
    mutual = FilterChainMatch(
        destination_port=port, transport_protocol="tls", application_protocols=list(_TLS_PEER) if permissive else []
    )
    chains = [
        FilterChain(
            name=name,
            filter_chain_match=mutual,
            filters=[inner],
            transport_socket=transport.server_tls(mesh.trust_domain),
            transport_socket_connect_timeout=_HANDSHAKE,
        )
    ]
    if permissive:
        foreign = FilterChainMatch(destination_port=port, transport_protocol="tls")
        plain = FilterChainMatch(destination_port=port, transport_protocol="raw_buffer")
        chains += [
            FilterChain(name=f"{name}-tls", filter_chain_match=foreign, filters=[_tcp(mesh, cluster)]),
            FilterChain(name=f"{name}-plaintext", filter_chain_match=plain, filters=[inner]),
        ]
    return chains


def _inbound_http(mesh: Mesh, name: str, service: Service) -> HttpConnectionManager:
    manager = _http(mesh, f"inbound_{name};")
    # What the client claims about its certificate is dropped; what this proxy verified takes its place.
    manager.forward_client_cert_details = HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET
    manager.set_current_client_cert_details = HttpConnectionManagerSetCurrentClientCertDetails(subject=True, uri=True)
    target = clusters.inbound_name(service)
    once_more = RetryPolicy(retry_on="reset-before-request", num_retries=2)
    host = VirtualHost(
        name=f"inbound|http|{service.port}",
        domains=["*"],
        routes=[_all_to(target, route_name(service), once_more, {})],
    )
    manager.route_config = RouteConfiguration(name=target, virtual_hosts=[host], validate_clusters=False)
    return manager


def _http(mesh: Mesh, stat_prefix: str) -> HttpConnectionManager:
    router = HttpFilter(name="envoy.filters.http.router", typed_config=transport.packed(Router()))
    return HttpConnectionManager(
        stat_prefix=stat_prefix,
        http_filters=[router],
        server_name="istio-envoy",
        stream_idle_timeout=transport.FOREVER,
        use_remote_address=False,
        generate_request_id=True,
        normalize_path=True,
        proxy_100_continue=True,
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        access_log=_access_log(mesh),
    )


def _manager_filter(manager: HttpConnectionManager) -> Filter:
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=transport.packed(manager))


def _tcp(mesh: Mesh, cluster: str) -> Filter:
    proxy = TcpProxy(stat_prefix=cluster, cluster=cluster, access_log=_access_log(mesh))
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=transport.packed(proxy))


def _all_to(cluster: str, operation: str, retries: RetryPolicy, headers: Mapping[str, str]) -> Route:
    endless = RouteActionMaxStreamDuration(
        max_stream_duration=transport.FOREVER, grpc_timeout_header_max=transport.FOREVER
    )
    action = RouteAction(cluster=cluster, timeout=transport.FOREVER, max_stream_duration=endless, retry_policy=retries)
    overwrite = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return Route(
        name="default",
        match=RouteMatch(prefix="/"),
        route=action,
        decorator=Decorator(operation=f"{operation}/*"),
        response_headers_to_add=[
            HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=overwrite)
            for key, value in headers.items()
        ],
    )


def _access_log(mesh: Mesh) -> list[AccessLog]:
    if not mesh.access_log:
        return []
    log = transport.packed(FileAccessLog(path=mesh.access_log))
    return [AccessLog(name="envoy.access_loggers.file", typed_config=log)]
