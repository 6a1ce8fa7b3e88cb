import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protos import xds_pb2
from agent.xds.slices import WRAPPED, Asked, Parts, asked, response, split
from agent.xds.wire import EnvelopeError, Flavour

names = st.text(max_size=6)
both = pytest.mark.parametrize("flavour", Flavour)


@given(
    version=names, nonce=names, rows=st.lists(st.tuples(names, names, st.binary(max_size=300))), gone=st.lists(names)
)
def test_a_delta_response_comes_apart_and_together(version, nonce, rows, gone):
    message = xds_pb2.DeltaResponse(type_url="t", nonce=nonce, system_version_info=version, removed_resources=gone)
    for name, resource_version, value in rows:
        message.resources.add(name=name, version=resource_version).resource.value = value
    parts = split(Flavour.DELTA, message.SerializeToString())
    want = tuple((resource.name, resource.SerializeToString()) for resource in message.resources)
    assert parts == Parts(want, tuple(gone), version)
    again = response("t", nonce, version, [entry for _, entry in parts.resources], gone)
    assert xds_pb2.DeltaResponse.FromString(again) == message


@given(version=names, rows=st.lists(st.tuples(st.text(min_size=1, max_size=6), st.binary(max_size=300), st.booleans())))
def test_a_state_response_is_named_by_what_it_holds(version, rows):
    message = xds_pb2.Response(type_url="t", nonce="n", version_info=version)
    for name, value, wrapped in rows:
        resource = message.resources.add()
        if wrapped:
            resource.type_url = WRAPPED
            resource.value = xds_pb2.Resource(name=name, version="9").SerializeToString()
        else:
            resource.type_url = "t"
            resource.value = xds_pb2.Node(id=name).SerializeToString() + b"\x12" + bytes((min(len(value), 127),))
            resource.value += value[:127]
    parts = split(Flavour.SOTW, message.SerializeToString())
    assert [name for name, _ in parts.resources] == [name for name, _, _ in rows]
    again = response("t", "n", version, [entry for _, entry in parts.resources])
    assert xds_pb2.Response.FromString(again) == message


def test_a_state_resource_without_a_name_is_left_out():
    message = xds_pb2.Response()
    message.resources.add(type_url="t", value=b"\x12\x01x")
    message.resources.add(type_url="t")
    assert split(Flavour.SOTW, message.SerializeToString()).resources == ()


@both
@given(st.binary(max_size=60))
def test_garbage_is_an_envelope_error_or_nothing_worse(flavour, frame):
    for read in (split, asked):
        try:
            read(flavour, frame)
        except EnvelopeError:
            pass


@both
def test_unknown_fields_are_passed_over(flavour):
    odd = b"\x78\x80\x01\xf9\x01" + bytes(8) + b"\xfd\x01" + bytes(4) + b"\xfa\x7c\x04past"
    assert split(flavour, b"\x0a\x01v" + odd) == Parts((), (), "v")
    for broken in (b"\x0b", b"\x0a\x05v", b"\x0a", b"\xf9\x01abc", b"\x08" + b"\xff" * 11, b"\x0a\x01\xff"):
        with pytest.raises(EnvelopeError):
            split(flavour, broken)


def test_requests_of_both_flavours():
    error = xds_pb2.Status(message="no")
    delta = xds_pb2.DeltaRequest(
        type_url="t",
        resource_names_subscribe=["a", "*"],
        resource_names_unsubscribe=["b"],
        initial_resource_versions={"c": "1"},
        response_nonce="n",
        error_detail=error,
    )
    want = Asked("t", ("a", "*"), ("b",), frozenset("c"), "", "n", True)
    assert asked(Flavour.DELTA, delta.SerializeToString()) == want
    state = xds_pb2.Request(type_url="t", resource_names=["a"], version_info="v", response_nonce="n")
    assert asked(Flavour.SOTW, state.SerializeToString()) == Asked("t", ("a",), version="v", nonce="n")
