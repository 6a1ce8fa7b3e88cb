import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from agent.protos import mesh_pb2, xds_pb2
from agent.xds import wire
from agent.xds.wire import EnvelopeError, Flavour, Head
from tests.agent.xds import tape

CDS = wire.TYPE + "envoy.config.cluster.v3.Cluster"
flavours = st.sampled_from(Flavour)
both = pytest.mark.parametrize("flavour", Flavour)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


# ------------------------------------------------------------------------------------------------ recorded frames


@tape.every_tape
def test_heads_of_recorded_frames(kind):
    flavour = tape.flavour(kind)
    for entry, frame in tape.load(kind):
        if entry["direction"] == "request":
            head = wire.request_head(flavour, frame)
            assert head.version == entry.get("version", "")
        else:
            head = wire.response_head(flavour, frame)
            assert head.version == entry["version"]
        assert (head.type_url, head.nonce) == (entry["type_url"], entry["nonce"])
        assert head.error is None or head.type_url == wire.HEALTH


@tape.every_tape
def test_every_cut_of_a_recorded_frame_is_a_head_or_the_one_error(kind):
    for entry, frame in tape.load(kind)[:4]:
        parse = wire.request_head if entry["direction"] == "request" else wire.response_head
        for end in range(0, len(frame), max(1, len(frame) // 300)):
            try:
                parse(tape.flavour(kind), frame[:end])
            except EnvelopeError:
                continue


# ------------------------------------------------------------------------------------------------ unusual frames


def test_delta_request():
    frame = field(1, b"node") + field(2, CDS.encode()) + field(3, b"a") + field(6, b"n1") + field(1999, b"later")
    assert wire.request_head(Flavour.DELTA, frame) == Head(CDS, "n1")


def test_sotw_request():
    frame = field(1, b"v7") + field(2, b"") + field(3, b"a") + field(4, CDS.encode()) + field(5, b"n1") + field(2000, 7)
    assert wire.request_head(Flavour.SOTW, frame) == Head(CDS, "n1", "v7")


@both
def test_a_refusal_has_its_text(flavour):
    refused = wire.refusal(flavour, CDS, "bad cluster")
    assert wire.request_head(flavour, refused) == Head(CDS, error="bad cluster")
    assert wire.request_head(flavour, wire.refusal(flavour, CDS, "")).error == ""


@both
def test_a_refusal_without_a_readable_status_is_an_error(flavour):
    number = 7 if flavour is Flavour.DELTA else 6
    with pytest.raises(EnvelopeError):
        wire.request_head(flavour, field(number, b"\xff"))


@both
def test_many_fields_in_front_of_the_type(flavour):
    request = field(3, b"name") * 20_000 + field(2 if flavour is Flavour.DELTA else 4, CDS.encode())
    response = field(2, b"") * 20_000 + field(4, CDS.encode()) + field(5, b"n")
    assert wire.request_head(flavour, request).type_url == CDS
    assert wire.response_head(flavour, response) == Head(CDS, "n")


@both
def test_the_last_of_repeated_strings_counts(flavour):
    assert wire.response_head(flavour, field(4, b"a") + field(5, b"n") + field(4, b"b")) == Head("b", "n")


@both
def test_a_known_field_with_another_wire_type_is_unknown(flavour):
    frame = field(4, 5) + varint(5 << 3 | 1) + bytes(8) + varint(1 << 3 | 5) + bytes(4) + field(4, CDS.encode())
    assert wire.response_head(flavour, frame) == Head(CDS)


@both
def test_groups_are_skipped(flavour):
    group = varint(9 << 3 | 3) + field(4, b"inside") + varint(9 << 3 | 4)
    assert wire.response_head(flavour, group + field(4, CDS.encode())) == Head(CDS)


@both
@pytest.mark.parametrize(
    "frame",
    [
        b"\x00",
        b"garbage",
        field(4, b"\xff\xfe"),  # not UTF-8
        b"\x22\x05abc",  # longer than the frame
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        varint(9 << 3 | 4),  # the end of a group that never began
    ],
)
def test_malformed(flavour, frame):
    with pytest.raises(EnvelopeError):
        wire.response_head(flavour, frame)


# ------------------------------------------------------------------------------------------------ properties


@given(flavours, st.binary(max_size=200))
@example(Flavour.SOTW, b"")
def test_any_bytes_give_a_head_or_the_one_error(flavour, frame):
    for parse in (wire.request_head, wire.response_head, wire.first_resource):
        try:
            parse(flavour, frame)
        except EnvelopeError:
            continue


numbers = st.one_of(st.integers(1, 16), st.integers(17, 5000))
fields = st.one_of(
    st.builds(field, numbers, st.binary(max_size=40)),
    st.builds(field, numbers, st.integers(0, 2**64 - 1)),
    st.builds(lambda n: varint(n << 3 | 1) + bytes(8), numbers),
    st.builds(lambda n: varint(n << 3 | 5) + bytes(4), numbers),
    st.builds(
        lambda n, b: varint(n << 3 | 3) + b + varint(n << 3 | 4), numbers, st.builds(field, numbers, st.just(b"x"))
    ),
    st.binary(max_size=3),
)


@given(flavours, st.lists(fields, max_size=8).map(b"".join))
def test_the_scan_agrees_with_the_protobuf_runtime(flavour, frame):
    message = xds_pb2.DeltaResponseHead() if flavour is Flavour.DELTA else xds_pb2.ResponseHead()
    try:
        message.ParseFromString(frame)
        version = message.system_version_info if flavour is Flavour.DELTA else message.version_info
        want = Head(message.type_url, message.nonce, version)
    except DecodeError:
        want = None
    try:
        got = wire.response_head(flavour, frame)
    except EnvelopeError:
        got = None
    assert got == want


# ------------------------------------------------------------------------------------------------ our own frames


def test_first_resource():
    delta = xds_pb2.DeltaResponse(type_url=CDS)
    assert wire.first_resource(Flavour.DELTA, delta.SerializeToString()) is None
    delta.resources.add(name="a").resource.value = b"1"
    delta.resources[0].resource.type_url = CDS
    delta.resources.add(name="b").resource.value = b"2"
    assert wire.first_resource(Flavour.DELTA, delta.SerializeToString()) == (CDS, b"1")
    sotw = xds_pb2.Response(type_url=CDS)
    assert wire.first_resource(Flavour.SOTW, sotw.SerializeToString()) is None
    sotw.resources.add(type_url=CDS, value=b"1")
    assert wire.first_resource(Flavour.SOTW, sotw.SerializeToString()) == (CDS, b"1")


@both
def test_a_subscription_is_nothing_but_its_type(flavour):
    number = 2 if flavour is Flavour.DELTA else 4
    assert wire.subscription(flavour, wire.NAME_TABLE) == field(number, wire.NAME_TABLE.encode())


def test_acknowledgements():
    head = Head(wire.NAME_TABLE, "n1", "v1")
    sotw = xds_pb2.Request.FromString(wire.acknowledgement(Flavour.SOTW, head))
    assert sotw == xds_pb2.Request(version_info="v1", type_url=wire.NAME_TABLE, response_nonce="n1")
    delta = xds_pb2.DeltaRequest.FromString(wire.acknowledgement(Flavour.DELTA, head, "no"))
    status = xds_pb2.Status(code=13, message="no")
    assert delta == xds_pb2.DeltaRequest(type_url=wire.NAME_TABLE, response_nonce="n1", error_detail=status)


@given(flavours, st.text(), st.text(), st.text(), st.none() | st.text())
def test_acknowledgements_read_back(flavour, type_url, nonce, version, error):
    head = wire.request_head(flavour, wire.acknowledgement(flavour, Head(type_url, nonce, version), error))
    assert head == Head(type_url, nonce, version if flavour is Flavour.SOTW else "", error)


# ------------------------------------------------------------------------------------------------ trust bundles


def test_a_trust_bundle_is_a_list_of_texts():
    payload = mesh_pb2.ProxyConfig(ca_certificates_pem=["a", "b"]).SerializeToString()
    assert wire.trust_bundle(field(1, b"another field") + payload) == ("a", "b")
    assert wire.trust_bundle(b"") == ()


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", field(34, b"\xff"), b"\x92"])
def test_an_undecodable_trust_bundle_is_a_sentence(payload):
    with pytest.raises(ValueError, match="the trust bundle cannot be decoded"):
        wire.trust_bundle(payload)
