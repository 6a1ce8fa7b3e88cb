import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.protos import xds_pb2
from agent.xds.cache import CLUSTER, ENDPOINTS, ROUTE, SECRET, Cache
from agent.xds.replay import Replay
from agent.xds.slices import asked
from agent.xds.tracker import Tracker
from agent.xds.wire import LISTENER, Flavour, response_head
from tests.agent.xds import tape
from tests.agent.xds.envoy_model import CDS, EDS, LDS, RDS, TYPES, Envoy, Plane, talk

both = pytest.mark.parametrize("flavour", Flavour)
LIMIT = 1 << 20

# ------------------------------------------------------------------------------------------------ properties
# The lab's control plane serves a changing world to an Envoy that may refuse, reconnect and restart. The cache watches.

world = st.fixed_dictionaries(
    {
        "clusters": st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")),
        "listeners": st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12")),
    }
).map(lambda w: {CDS: w["clusters"], EDS: w["clusters"], LDS: w["listeners"], RDS: w["listeners"]})
events = st.lists(
    st.one_of(
        st.tuples(st.just("update"), world, st.lists(st.booleans(), max_size=8)),
        st.just(("reconnect",)),
        st.just(("restart",)),
    ),
    max_size=8,
)


class Live:
    """A live conversation, watched by a cache."""

    def __init__(self, flavour, start):
        self.flavour, self.world, self.cache = flavour, start, Cache(LIMIT)
        self.envoy = Envoy(flavour)
        self.connect()

    def connect(self):
        self.tracker = Tracker(self.cache, self.flavour, LIMIT)
        self.plane = Plane(self.flavour, self.world)
        talk(self.envoy, self.envoy.open(), self.answer)
        self.tracker.prune()  # or an Envoy that refuses what an earlier one had accepted would get that

    def answer(self, frame):
        self.tracker.request(asked(self.flavour, frame))
        return self.seen(self.plane.request(frame))

    def seen(self, frames):
        for frame in frames:
            self.tracker.response(response_head(self.flavour, frame), frame)
        return frames

    def update(self, world, refusals):
        self.world, refusals = world, list(refusals)
        frames = self.seen(self.plane.update(world))
        for frame in frames:
            refuse = bool(refusals) and refusals.pop()
            talk(self.envoy, self.envoy.response(frame, refuse), self.answer, lambda: bool(refusals) and refusals.pop())

    def play(self, events):
        for kind, *arguments in events:
            if kind == "update":
                self.update(*arguments)
            else:
                if kind == "restart":
                    self.envoy = Envoy(self.flavour)
                self.connect()


def outage(live, envoy):
    """Let the cache serve this Envoy; the number of responses."""
    replay = Replay(live.cache, live.flavour)

    def answer(frame):
        live.tracker.request(asked(live.flavour, frame))
        return [served.frame for served in replay.request(asked(live.flavour, frame))]

    return talk(envoy, envoy.open(), answer)


@both
@given(start=world, events=events)
@settings(max_examples=100, deadline=None)
def test_an_envoy_without_anything_gets_what_the_last_one_had_accepted(flavour, start, events):
    live = Live(flavour, start)
    live.play(events)
    fresh = Envoy(flavour)
    outage(live, fresh)
    assert fresh.world() == live.envoy.world()
    # Being served changes nothing: the next crash finds the same.
    again = Envoy(flavour)
    outage(live, again)
    assert again.world() == live.envoy.world()


@both
@given(start=world, events=events)
@settings(max_examples=100, deadline=None)
def test_an_envoy_that_lost_only_its_stream_is_sent_nothing(flavour, start, events):
    live = Live(flavour, start)
    live.play(events)
    before = live.envoy.world()
    assert outage(live, live.envoy) == 0
    assert live.envoy.world() == before


@both
@given(start=world, events=events, changed=world)
@settings(max_examples=100, deadline=None)
def test_after_the_hand_over_envoy_has_the_new_world_and_so_has_the_cache(flavour, start, events, changed):
    live = Live(flavour, start)
    live.play(events)
    live.envoy = Envoy(flavour)
    outage(live, live.envoy)
    live.world = changed
    live.connect()
    want = Envoy(flavour)
    talk(want, want.open(), Plane(flavour, changed).request)
    assert live.envoy.world() == want.world()
    fresh = Envoy(flavour)
    outage(live, fresh)
    assert fresh.world() == want.world()


@both
@given(start=world, events=events)
@settings(max_examples=50, deadline=None)
def test_the_size_is_that_of_names_and_slices(flavour, start, events):
    live = Live(flavour, start)
    live.play(events)
    entries = [(n, e) for kept in live.cache.types().values() for n, e in kept.entries.items()]
    assert live.cache.size == sum(len(n) + len(e) for n, e in entries)


# ------------------------------------------------------------------------------------------------ recordings


@tape.every_tape
def test_what_a_real_envoy_accepted_from_a_real_istiod_comes_back(kind):
    flavour = tape.flavour(kind)
    cache = Cache(LIMIT)
    tracker = Tracker(cache, flavour, LIMIT)
    held = {}
    for entry, frame in tape.load(kind):
        if entry["direction"] == "request":
            tracker.request(asked(flavour, frame))
            continue
        head = response_head(flavour, frame)
        tracker.response(head, frame)
        state = held.setdefault(head.type_url, {})
        if flavour is Flavour.DELTA:
            message = xds_pb2.DeltaResponse.FromString(frame)
            state.update((r.name, r.resource.value) for r in message.resources)
            for name in message.removed_resources:
                state.pop(name, None)
        else:
            message = xds_pb2.Response.FromString(frame)
            if head.type_url in (CLUSTER, LISTENER):
                state.clear()
            state.update((xds_pb2.Node.FromString(r.value).id, r.value) for r in message.resources)
    gone = "outbound|80||later.demo.svc.cluster.local"
    held[ENDPOINTS].pop(gone, None)  # unsubscribed
    for type_url in (CLUSTER, LISTENER, ENDPOINTS, ROUTE):
        names = sorted(held[type_url]) if type_url in (ENDPOINTS, ROUTE) else []
        replay = Replay(cache, flavour)
        if flavour is Flavour.DELTA:
            question = xds_pb2.DeltaRequest(type_url=type_url, resource_names_subscribe=names)
            [served] = replay.request(asked(flavour, question.SerializeToString()))
            answer = xds_pb2.DeltaResponse.FromString(served.frame)
            assert {r.name: r.resource.value for r in answer.resources} == held[type_url]
            assert gone not in cache.types()[type_url].entries
        else:
            question = xds_pb2.Request(type_url=type_url, resource_names=names)
            [served] = replay.request(asked(flavour, question.SerializeToString()))
            answer = xds_pb2.Response.FromString(served.frame)
            values = {xds_pb2.Node.FromString(r.value).id: r.value for r in answer.resources}
            assert values == held[type_url]
            assert answer.version_info
        assert served.resources == len(held[type_url]) > 5


# ------------------------------------------------------------------------------------------------ transcripts


def filled(flavour, **types):
    """A cache that holds these: type to names."""
    live = Live(flavour, {CDS: dict.fromkeys(types.get("clusters", ""), "1"), EDS: {}, LDS: {}, RDS: {}})
    live.update({**live.world, EDS: dict.fromkeys(types.get("endpoints", ""), "1")}, [])
    return live.cache


def delta(type_url, subscribe=(), unsubscribe=(), held=(), nonce="", error=None):
    detail = xds_pb2.Status(message=error) if error is not None else None
    request = xds_pb2.DeltaRequest(
        type_url=type_url,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=dict.fromkeys(held, ""),
        response_nonce=nonce,
        error_detail=detail,
    )
    return asked(Flavour.DELTA, request.SerializeToString())


def state(type_url, names=(), version="", nonce="", error=None):
    detail = xds_pb2.Status(message=error) if error is not None else None
    request = xds_pb2.Request(
        type_url=type_url, resource_names=names, version_info=version, response_nonce=nonce, error_detail=detail
    )
    return asked(Flavour.SOTW, request.SerializeToString())


def names_of(served):
    return [
        (sorted(r.name for r in message.resources), sorted(message.removed_resources))
        for message in (xds_pb2.DeltaResponse.FromString(one.frame) for one in served)
    ]


def values_of(served):
    [one] = served
    return sorted(xds_pb2.Node.FromString(r.value).id for r in xds_pb2.Response.FromString(one.frame).resources)


def test_a_name_that_is_not_cached_stays_open():
    replay = Replay(filled(Flavour.DELTA, clusters="ab", endpoints="ab"), Flavour.DELTA)
    assert names_of(replay.request(delta(ENDPOINTS, "az"))) == [(["a"], [])]
    assert replay.request(delta(ENDPOINTS, nonce="cached-1")) == []
    assert names_of(replay.request(delta(ENDPOINTS, "by"))) == [(["b"], [])]


def test_a_name_that_did_not_exist_is_answered_as_the_control_plane_did():
    replay = Replay(filled(Flavour.DELTA, clusters="ab", endpoints="a"), Flavour.DELTA)
    assert names_of(replay.request(delta(ENDPOINTS, "ab"))) == [(["a"], ["b"])]


def test_what_envoy_holds_is_not_sent_but_what_it_asks_for_anew_is():
    replay = Replay(filled(Flavour.DELTA, clusters="ab", endpoints="ab"), Flavour.DELTA)
    assert replay.request(delta(CLUSTER, held="abz")) == []
    assert not replay.committed
    assert names_of(replay.request(delta(ENDPOINTS, "ab", held="a"))) == [(["b"], [])]
    assert names_of(replay.request(delta(ENDPOINTS, "a"))) == [(["a"], [])]
    assert replay.request(delta(ENDPOINTS, unsubscribe="a")) == []
    assert replay.committed


def test_endpoints_follow_a_cluster_that_was_sent_held_or_not():
    replay = Replay(filled(Flavour.DELTA, clusters="ab", endpoints="ab"), Flavour.DELTA)
    assert names_of(replay.request(delta(CLUSTER, held="b"))) == [(["a"], [])]
    assert names_of(replay.request(delta(ENDPOINTS, "ab", held="ab"))) == [(["a"], [])]


def test_wildcard_by_star_and_a_name_forgotten_under_it():
    replay = Replay(filled(Flavour.DELTA, clusters="ab"), Flavour.DELTA)
    assert names_of(replay.request(delta(CLUSTER, ["*", "a"]))) == [(["a", "b"], [])]
    assert names_of(replay.request(delta(CLUSTER, unsubscribe="a"))) == [(["a"], [])]
    assert replay.request(delta(CLUSTER, unsubscribe="*")) == []
    assert replay.request(delta(CLUSTER, nonce="cached-2")) == []


@both
def test_a_refusal_is_taken_note_of_and_nothing_is_sent_again(flavour):
    replay = Replay(filled(flavour, clusters="ab"), flavour)
    question = delta if flavour is Flavour.DELTA else state
    assert len(replay.request(question(CLUSTER))) == 1
    assert replay.request(question(CLUSTER, nonce="cached-1", error="no")) == []


def test_state_of_the_world_answers_growth_in_full_and_ignores_what_was_overtaken():
    replay = Replay(filled(Flavour.SOTW, clusters="abc", endpoints="abc"), Flavour.SOTW)
    assert values_of(replay.request(state(ENDPOINTS, "a"))) == ["a"]
    assert replay.request(state(ENDPOINTS, "abc", "v", nonce="unknown")) == []
    assert values_of(replay.request(state(ENDPOINTS, "ab", "v", nonce="cached-1"))) == ["a", "b"]
    assert replay.request(state(ENDPOINTS, "a", "v", nonce="cached-1")) == []
    assert replay.request(state(ENDPOINTS, "b", "v", nonce="cached-2")) == []
    assert values_of(replay.request(state(ENDPOINTS, "bc", "v", nonce="cached-2"))) == ["b", "c"]


def test_state_of_the_world_reconnect_asks_for_more_than_it_held():
    cache = filled(Flavour.SOTW, clusters="ab", endpoints="ab")
    version = cache.types()[ENDPOINTS].version
    assert Replay(cache, Flavour.SOTW).request(state(CLUSTER, version="any")) == []
    assert Replay(cache, Flavour.SOTW).request(state(ENDPOINTS, "abz", version)) == []
    cache.settled(ENDPOINTS, ["a"])
    replay = Replay(cache, Flavour.SOTW)
    assert values_of(replay.request(state(ENDPOINTS, "abz", version))) == ["a", "b"]
    assert replay.request(state(ENDPOINTS, "abz", version, nonce="cached-1")) == []
    # Envoy has it now: the next reconnect finds nothing to be sent, so that a slow control plane can take over.
    assert Replay(cache, Flavour.SOTW).request(state(ENDPOINTS, "abz", version)) == []


def test_make_before_break_when_several_types_wait():
    cache = filled(Flavour.DELTA, clusters="ab", endpoints="ab")
    served = Replay(cache, Flavour.DELTA).begin([delta(t, "ab" if t == EDS else ()) for t in reversed(TYPES)])
    assert [one.type_url for one in served] == [CLUSTER, ENDPOINTS, LISTENER][:2]


@both
def test_flavours_are_not_translated(flavour):
    other = next(f for f in Flavour if f is not flavour)
    question = state if flavour is Flavour.DELTA else delta
    assert Replay(filled(flavour, clusters="ab"), other).request(question(CLUSTER)) == []


@both
def test_types_that_are_not_known_stay_open(flavour):
    replay = Replay(filled(flavour, clusters="ab"), flavour)
    question = delta if flavour is Flavour.DELTA else state
    assert replay.request(question(SECRET, ["default"])) == []
    assert replay.request(question("")) == []
