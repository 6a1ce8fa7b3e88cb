"""Bytes of both flavours, there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lab import envelope
from agent.lab.session import CDS, DeltaRequest, Push, StateRequest, resource
from agent.protos import xds_pb2

PUSH = Push(CDS, "n", "v", (resource("a", b"body"),), ("gone",))


def test_delta() -> None:
    message = xds_pb2.DeltaRequest(
        type_url=CDS, resource_names_subscribe=["a"], resource_names_unsubscribe=["b"], response_nonce="n"
    )
    message.node.id = "me"
    message.initial_resource_versions["a"] = "1"
    assert envelope.decode_delta(message.SerializeToString()) == (
        "me",
        DeltaRequest(CDS, ("a",), ("b",), {"a": "1"}, "n"),
    )
    response = xds_pb2.DeltaResponse.FromString(envelope.encode_delta(PUSH))
    assert (response.system_version_info, response.nonce, list(response.removed_resources)) == ("v", "n", ["gone"])
    assert (response.resources[0].name, response.resources[0].resource.type_url) == ("a", CDS)
    assert response.resources[0].version == PUSH.resources[0].version


def test_state() -> None:
    message = xds_pb2.Request(type_url=CDS, resource_names=["a"], version_info="v", response_nonce="n")
    message.error_detail.code = 13
    assert envelope.decode_state(message.SerializeToString()) == ("", StateRequest(CDS, ("a",), "v", "n", ""))
    response = xds_pb2.Response.FromString(envelope.encode_state(PUSH))
    assert (response.version_info, response.nonce, response.type_url) == ("v", "n", CDS)
    assert response.resources[0].value == b"body"


@given(st.binary(max_size=100))
def test_garbage_is_a_value_error_or_a_request(raw: bytes) -> None:
    for decode in (envelope.decode_delta, envelope.decode_state):
        try:
            decode(raw)
        except ValueError as error:
            assert "the request is no" in str(error)  # noqa: PT017


def test_garbage_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="DeltaDiscoveryRequest"):
        envelope.decode_delta(b"\xff")
