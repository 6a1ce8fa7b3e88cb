"""Listeners and routes of a sidecar, by mTLS mode."""

from typing import Any

import pytest
from envoy_data_plane.envoy.config.listener.v3 import FilterChain
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerForwardClientCertDetails,
)

from agent.lab import listeners
from agent.lab.mesh import Mesh, parse


def world(mtls: str, more: str = "") -> Mesh:
    return parse(
        f"mtls: {mtls}\n{more}"
        "services: [{name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080, headers: {x-config: v1}}]\n"
    )


def manager_of(chain: FilterChain) -> HttpConnectionManager:
    return HttpConnectionManager.parse(chain.filters[-1].typed_config.value)


def inbound(mtls: str) -> Any:
    mesh = world(mtls)
    return listeners.virtual_inbound(mesh, mesh.services, "0.0.0.0")


def chains(mtls: str) -> dict[str, FilterChain]:
    return {chain.name: chain for chain in inbound(mtls).filter_chains}


def test_virtual_outbound_hands_over_by_original_destination() -> None:
    listener = listeners.virtual_outbound(world("STRICT"), "0.0.0.0")
    assert listener.address.socket_address.port_value == 15001
    assert listener.use_original_dst is True
    assert [chain.name for chain in listener.filter_chains] == [
        "virtualOutbound-blackhole",
        "virtualOutbound-catchall-tcp",
    ]


def test_outbound_listeners_are_never_bound() -> None:
    mesh = world("STRICT")
    listener = listeners.outbound(mesh, mesh.services[0])
    assert (listener.name, listener.bind_to_port) == ("10.96.0.2_80", False)
    manager = manager_of(listener.filter_chains[0])
    assert manager.rds.route_config_name == "b.demo.svc.cluster.local:80"
    assert manager.generate_request_id is True


def test_routes_retry_and_add_the_headers_of_the_mesh_file() -> None:
    config = listeners.route(world("STRICT").services[0])
    config = RouteConfiguration.parse(bytes(config))
    (route,) = config.virtual_hosts[0].routes
    assert route.route.cluster == "outbound|80||b.demo.svc.cluster.local"
    assert route.route.retry_policy.retry_on == "connect-failure,refused-stream,reset-before-request,unavailable"
    assert route.route.retry_policy.num_retries == 2
    assert route.route.timeout.total_seconds() == 0
    assert [(h.header.key, h.header.value) for h in route.response_headers_to_add] == [("x-config", "v1")]


def test_strict_has_no_way_in_without_a_certificate() -> None:
    found = chains("STRICT")
    assert set(found) == {"virtualInbound-blackhole", "0.0.0.0_8080", "virtualInbound-catchall"}
    for name in ("0.0.0.0_8080", "virtualInbound-catchall"):
        assert found[name].filter_chain_match.transport_protocol == "tls"
        assert found[name].transport_socket is not None
    listener = inbound("STRICT")
    assert [f.name.rpartition(".")[2] for f in listener.listener_filters] == ["original_dst", "tls_inspector"]
    assert listener.continue_on_listener_filters_timeout is False


def test_permissive_takes_both() -> None:
    found = chains("PERMISSIVE")
    assert found["0.0.0.0_8080"].transport_socket is not None
    assert "istio" in found["0.0.0.0_8080"].filter_chain_match.application_protocols
    assert found["0.0.0.0_8080-tls"].transport_socket is None
    assert found["0.0.0.0_8080-plaintext"].filter_chain_match.transport_protocol == "raw_buffer"
    assert inbound("PERMISSIVE").continue_on_listener_filters_timeout is True


def test_disable_knows_no_tls() -> None:
    found = chains("DISABLE")
    assert set(found) == {"virtualInbound-blackhole", "0.0.0.0_8080", "virtualInbound-catchall"}
    assert all(chain.transport_socket is None for chain in found.values())
    assert [f.name.rpartition(".")[2] for f in inbound("DISABLE").listener_filters] == ["original_dst"]


@pytest.mark.parametrize("mtls", ["STRICT", "PERMISSIVE", "DISABLE"])
def test_the_client_certificate_header_is_always_ours(mtls: str) -> None:
    for name, chain in chains(mtls).items():
        if chain.filters[-1].name.endswith("http_connection_manager"):
            manager = manager_of(chain)
            details = HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET
            assert manager.forward_client_cert_details is details, name
            assert manager.set_current_client_cert_details.uri is True
            assert manager.set_current_client_cert_details.subject is True
            assert manager.route_config.virtual_hosts[0].routes[0].route.cluster == "inbound|8080||"


def test_access_log_only_on_demand() -> None:
    quiet, loud = world("STRICT"), world("STRICT", "access_log: /dev/stdout\n")
    assert manager_of(listeners.outbound(quiet, quiet.services[0]).filter_chains[0]).access_log == []
    assert len(manager_of(listeners.outbound(loud, loud.services[0]).filter_chains[0]).access_log) == 1
