"""The messages that clusters and listeners share."""

from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import DownstreamTlsContext

from agent.lab import transport


def test_secrets_come_from_the_agent_without_a_timeout() -> None:
    config = transport.secret("ROOTCA").sds_config
    (service,) = config.api_config_source.grpc_services
    assert service.envoy_grpc.cluster_name == "sds-grpc"
    assert config.initial_fetch_timeout.total_seconds() == 0


def test_servers_demand_a_certificate_of_the_trust_domain() -> None:
    context = DownstreamTlsContext.parse(transport.server_tls("example.org").typed_config.value)
    assert context.require_client_certificate is True
    common = context.common_tls_context
    (matcher,) = common.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    assert matcher.matcher.prefix == "spiffe://example.org/"


def test_addresses() -> None:
    socket = transport.address("::1", 80).socket_address
    assert (socket.address, socket.port_value) == ("::1", 80)
    assert transport.bind_to("127.0.0.6").source_address.port_value == 0
    assert transport.ads_source().ads is not None
    assert transport.plaintext().typed_config.type_url.endswith("RawBuffer")
