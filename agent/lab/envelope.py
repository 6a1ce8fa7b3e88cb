"""ADS envelopes: bytes of either flavour to the sessions' requests, and pushes to bytes. ValueError for garbage."""

from google.protobuf.message import DecodeError

from agent.lab.session import DeltaRequest, Push, StateRequest
from agent.protos import xds_pb2


def decode_delta(raw: bytes) -> tuple[str, DeltaRequest]:
    """(node id or "", request) of a DeltaDiscoveryRequest."""
    try:
        message = xds_pb2.DeltaRequest.FromString(raw)
    except DecodeError as error:
        raise ValueError(f"the request is no DeltaDiscoveryRequest: {error}") from None
    return message.node.id, DeltaRequest(
        message.type_url,
        tuple(message.resource_names_subscribe),
        tuple(message.resource_names_unsubscribe),
        dict(message.initial_resource_versions),
        message.response_nonce,
        message.error_detail.message if message.HasField("error_detail") else None,
    )


def decode_state(raw: bytes) -> tuple[str, StateRequest]:
    """(node id or "", request) of a DiscoveryRequest."""
    try:
        message = xds_pb2.Request.FromString(raw)
    except DecodeError as error:
        raise ValueError(f"the request is no DiscoveryRequest: {error}") from None
    return message.node.id, StateRequest(
        message.type_url,
        tuple(message.resource_names),
        message.version_info,
        message.response_nonce,
        message.error_detail.message if message.HasField("error_detail") else None,
    )


def encode_delta(push: Push) -> bytes:
    message = xds_pb2.DeltaResponse(
        system_version_info=push.version, type_url=push.type_url, nonce=push.nonce, removed_resources=push.removed
    )
    for resource in push.resources:
        row = message.resources.add(name=resource.name, version=resource.version)
        row.resource.type_url, row.resource.value = push.type_url, resource.body
    return message.SerializeToString()


def encode_state(push: Push) -> bytes:
    message = xds_pb2.Response(version_info=push.version, type_url=push.type_url, nonce=push.nonce)
    for resource in push.resources:
        message.resources.add(type_url=push.type_url, value=resource.body)
    return message.SerializeToString()
