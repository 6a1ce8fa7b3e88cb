import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.protos import xds_pb2
from agent.xds import wire
from agent.xds.session import Announcement, Apply, Dropped, Refused, Session, ToEnvoy, ToPlane
from agent.xds.wire import HEALTH, LISTENER, NAME_TABLE, TRUST_BUNDLE, EnvelopeError, Flavour, Head
from tests.agent.xds import tape

CDS = wire.TYPE + "envoy.config.cluster.v3.Cluster"
OWNED = (NAME_TABLE, TRUST_BUNDLE)
both = pytest.mark.parametrize("flavour", Flavour)


def response(flavour, type_url, *values, nonce="n1", version="v1", inner=None):
    inner = type_url if inner is None else inner
    if flavour is Flavour.DELTA:
        message = xds_pb2.DeltaResponse(type_url=type_url, nonce=nonce, system_version_info=version)
        for value in values:
            resource = message.resources.add(name="r").resource
            resource.type_url, resource.value = inner, value
    else:
        message = xds_pb2.Response(type_url=type_url, nonce=nonce, version_info=version)
        for value in values:
            message.resources.add(type_url=inner, value=value)
    return message.SerializeToString()


def request(flavour, type_url, **fields):
    cls = xds_pb2.DeltaRequest if flavour is Flavour.DELTA else xds_pb2.Request
    return cls(type_url=type_url, **fields).SerializeToString()


def asked(flavour, *types):
    return [ToPlane(wire.subscription(flavour, t)) for t in types]


# ------------------------------------------------------------------------------------------------ upwards


@both
def test_nothing_of_our_own_before_the_first_listener_request(flavour):
    session = Session(flavour, OWNED)
    for type_url in (CDS, "anything/goes", ""):
        frame = request(flavour, type_url)
        assert session.request(frame) == [ToPlane(frame)]


@both
def test_our_subscriptions_follow_the_first_listener_request_only(flavour):
    session = Session(flavour, OWNED)
    frame = request(flavour, LISTENER)
    assert session.request(frame) == [ToPlane(frame), *asked(flavour, NAME_TABLE, TRUST_BUNDLE)]
    assert session.request(frame) == [ToPlane(frame)]


@both
def test_without_subscriptions_nothing_is_added(flavour):
    frame = request(flavour, LISTENER)
    assert Session(flavour).request(frame) == [ToPlane(frame)]


@both
def test_a_refusal_by_envoy_is_passed_on_and_reported(flavour):
    frame = request(flavour, CDS, response_nonce="n", error_detail=xds_pb2.Status(code=13, message="bad cluster a"))
    assert Session(flavour).request(frame) == [ToPlane(frame), Refused(CDS, "bad cluster a")]


@both
def test_an_announcement_waits_for_the_listener_request(flavour):
    session = Session(flavour, OWNED)
    assert session.announce(Announcement(HEALTH, "starting")) == []
    assert session.announce(Announcement(HEALTH)) == []
    frame = request(flavour, LISTENER)
    want = [ToPlane(frame), *asked(flavour, NAME_TABLE, TRUST_BUNDLE, HEALTH)]
    assert session.request(frame) == want
    [said] = session.announce(Announcement(HEALTH, "gone"))
    assert wire.request_head(flavour, said.frame) == Head(HEALTH, error="gone")


# ------------------------------------------------------------------------------------------------ downwards


@both
@pytest.mark.parametrize("type_url", [CDS, wire.WORKLOAD, wire.TYPE + "envoy.something.v9.New", wire.TYPE + "envoy."])
def test_what_envoy_understands_goes_to_envoy(flavour, type_url):
    frame = response(flavour, type_url, b"x")
    assert Session(flavour, OWNED).response(frame) == ToEnvoy(frame, wire.response_head(flavour, frame))


@both
def test_an_empty_response_goes_to_envoy_too(flavour):
    frame = response(flavour, LISTENER)
    assert Session(flavour, OWNED).response(frame) == ToEnvoy(frame, wire.response_head(flavour, frame))


@both
@pytest.mark.parametrize(
    "type_url",
    ["", "istio.io/debug", wire.TYPE + "istio.workload.Address", "envoy.config.cluster.v3.Cluster", NAME_TABLE, HEALTH],
)
def test_what_nobody_asked_for_is_dropped(flavour, type_url):
    assert Session(flavour).response(response(flavour, type_url, b"x")) == Dropped(type_url, expected=False)


@both
def test_only_the_first_resource_of_ours_is_applied(flavour):
    session = Session(flavour, OWNED)
    action = session.response(response(flavour, NAME_TABLE, b"one", b"two", nonce="n7", version="v7"))
    assert action == Apply(Head(NAME_TABLE, "n7", "v7"), b"one")


@both
def test_acknowledgement_has_the_shape_of_the_flavour(flavour):
    session = Session(flavour, OWNED)
    action = session.response(response(flavour, TRUST_BUNDLE, b"x", nonce="n7", version="v7"))
    if flavour is Flavour.DELTA:
        want = xds_pb2.DeltaRequest(type_url=TRUST_BUNDLE, response_nonce="n7")
    else:
        want = xds_pb2.Request(type_url=TRUST_BUNDLE, response_nonce="n7", version_info="v7")
    assert session.applied(action) == ToPlane(want.SerializeToString())
    want.error_detail.code, want.error_detail.message = 13, "no"
    assert session.applied(action, "no") == ToPlane(want.SerializeToString())


@both
def test_an_empty_response_of_ours_is_ignored(flavour):
    assert Session(flavour, OWNED).response(response(flavour, NAME_TABLE)) == Dropped(NAME_TABLE, expected=True)


@both
@pytest.mark.parametrize("inner", ["", CDS, "istio.networking.nds.v1.NameTables"])
def test_another_type_inside_is_refused_unseen(flavour, inner):
    action = Session(flavour, OWNED).response(response(flavour, NAME_TABLE, b"x", inner=inner))
    assert action.value == b""
    assert NAME_TABLE in action.mismatch


@both
def test_the_host_of_a_type_url_does_not_matter(flavour):
    action = Session(flavour, OWNED).response(response(flavour, NAME_TABLE, b"x", inner="x.example/" + NAME_TABLE[20:]))
    assert action.value == b"x"
    assert not action.mismatch


# ------------------------------------------------------------------------------------------------ whole conversations


@tape.every_tape
def test_recorded_conversation(kind):
    """What a real agent sent on its own account comes out of the session; the rest passes as it is."""
    flavour = tape.flavour(kind)
    session = Session(flavour, (NAME_TABLE,))
    ours = {NAME_TABLE, HEALTH}
    up, down, acknowledged = [], [], 0
    session.announce(Announcement(HEALTH))
    for entry, frame in tape.load(kind):
        if entry["direction"] == "request":
            if entry["type_url"] not in ours:
                up.extend(session.request(frame))
        elif isinstance(action := session.response(frame), ToEnvoy):
            down.append(action.frame)
        else:
            assert isinstance(action, Apply)
            assert not action.mismatch
            acknowledged += 1
            up.append(session.applied(action))
    frames = tape.load(kind)
    want = [frame for entry, frame in frames if entry["direction"] == "request" and entry["type_url"] != HEALTH]
    sent = [action.frame for action in up]
    assert sorted(f for f in sent if wire.request_head(flavour, f).type_url != HEALTH) == sorted(want)
    assert down == [f for e, f in frames if e["direction"] == "response" and e["type_url"] not in ours]
    assert acknowledged == sum(e["direction"] == "response" and e["type_url"] == NAME_TABLE for e, _ in frames)


types = st.sampled_from([CDS, LISTENER, NAME_TABLE, TRUST_BUNDLE, HEALTH, "", "x/y"])
step = st.one_of(
    st.tuples(st.just("request"), types, st.text(max_size=3)),
    st.tuples(st.just("response"), types, st.text(max_size=3)),
    st.tuples(st.just("garbage"), st.binary(max_size=20), st.just("")),
)


@given(st.sampled_from(Flavour), st.lists(step, max_size=30))
def test_any_sequence_keeps_the_rules(flavour, steps):
    """Envoy's frames all go up unchanged and in order, ours are asked for once, and Envoy never sees them."""
    session = Session(flavour, OWNED)
    subscribed = False
    for kind, what, nonce in steps:
        if kind == "garbage":
            try:
                session.response(what)
            except EnvelopeError:
                continue
        elif kind == "request":
            frame = request(flavour, what, response_nonce=nonce)
            actions = session.request(frame)
            assert actions[0] == ToPlane(frame)
            first = what == LISTENER and not subscribed
            assert actions[1:] == (asked(flavour, *OWNED) if first else [])
            subscribed = subscribed or first
        else:
            action = session.response(response(flavour, what, b"v", nonce=nonce))
            assert isinstance(action, ToEnvoy) == (what in (CDS, LISTENER))
            assert isinstance(action, Apply) == (what in OWNED)
