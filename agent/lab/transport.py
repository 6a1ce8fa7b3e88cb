"""Small Envoy messages that clusters and listeners share: addresses, config sources, mutual TLS with SDS secrets."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any as Message

from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    BindConfig,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

SDS_CLUSTER = "sds-grpc"  # static, in every agent's bootstrap
MESH_ALPN = ("istio-peer-exchange", "istio")  # how a sidecar knows another sidecar's TLS from an application's
FOREVER = timedelta(0)


def packed(message: Message) -> Any:
    return Any.pack(message)


def address(ip: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=ip, port_value=port))


def bind_to(ip: str) -> BindConfig:
    """Connect from this local address: the redirect rules let 127.0.0.6 and ::6 through to the application."""
    return BindConfig(source_address=SocketAddress(address=ip, port_value=0))


def ads_source() -> ConfigSource:
    return ConfigSource(ads=AggregatedConfigSource(), initial_fetch_timeout=FOREVER, resource_api_version=ApiVersion.V3)


def secret(name: str) -> SdsSecretConfig:
    """A secret that the agent serves on its own socket: `default` (key and chain) or `ROOTCA`."""
    source = ApiConfigSource(
        api_type=ApiConfigSourceApiType.GRPC,
        transport_api_version=ApiVersion.V3,
        grpc_services=[GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=SDS_CLUSTER))],
        set_node_on_first_message_only=True,
    )
    config = ConfigSource(api_config_source=source, initial_fetch_timeout=FOREVER, resource_api_version=ApiVersion.V3)
    return SdsSecretConfig(name=name, sds_config=config)


def _common(peers: Sequence[StringMatcher], alpn: Sequence[str]) -> CommonTlsContext:
    matchers = [SubjectAltNameMatcher(san_type=SubjectAltNameMatcherSanType.URI, matcher=peer) for peer in peers]
    return CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        ),
        tls_certificate_sds_secret_configs=[secret("default")],
        combined_validation_context=CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=matchers),
            validation_context_sds_secret_config=secret("ROOTCA"),
        ),
        alpn_protocols=list(alpn),
    )


def client_tls(identities: Sequence[str], sni: str) -> TransportSocket:
    """Mutual TLS towards workloads with exactly one of these SPIFFE URIs."""
    common = _common([StringMatcher(exact=identity) for identity in identities], MESH_ALPN)
    return TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=packed(UpstreamTlsContext(common_tls_context=common, sni=sni))
    )


def server_tls(trust_domain: str) -> TransportSocket:
    """Mutual TLS from any workload of the trust domain."""
    common = _common([StringMatcher(prefix=f"spiffe://{trust_domain}/")], ("istio-peer-exchange", "h2", "http/1.1"))
    context = DownstreamTlsContext(common_tls_context=common, require_client_certificate=True)
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def plaintext() -> TransportSocket:
    return TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=packed(RawBuffer()))
