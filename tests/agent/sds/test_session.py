from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.protos import xds_pb2
from agent.sds.session import HEALTH_TYPE, MAX_NAMES, SECRET_TYPE, DeltaSession, Refusal, Rejected, Session

NODE = xds_pb2.Node(id="sidecar~1")


def ask(*names: str, nonce: str = "", node: bool = True, **more: Any) -> xds_pb2.Request:
    return xds_pb2.Request(
        node=NODE if node else None, type_url=SECRET_TYPE, resource_names=names, response_nonce=nonce, **more
    )


class World(dict[str, str]):
    """name -> version; what is missing is not there yet."""

    def answer(self, session: Session | DeltaSession, nonce: str) -> tuple[str, ...]:
        """Let the session send once under `nonce`."""
        names = session.due(self.get)
        if names:
            session.sent(names, nonce, self.get)
        return names


@pytest.fixture
def world() -> World:
    return World(default="1", ROOTCA="1")


@pytest.fixture
def session(world: World) -> Session:
    """Subscribed to default, which was sent under n1."""
    session = Session()
    assert session.request(ask("default")) is None
    assert world.answer(session, "n1") == ("default",)
    return session


@pytest.mark.parametrize("kind", [Session, DeltaSession])
def test_the_first_request_must_name_the_node(kind: type[Any]) -> None:
    request = ask("a", node=False) if kind is Session else xds_pb2.DeltaRequest(resource_names_subscribe=["a"])
    assert kind().request(request) == Refusal("INVALID_ARGUMENT", "missing node information")


def test_later_requests_need_no_node(session: Session, world: World) -> None:
    assert session.request(ask("ROOTCA", node=False)) is None
    assert world.answer(session, "n2") == ("ROOTCA",)


def test_an_answer_waits_for_all_of_its_resources() -> None:
    world, session = World(), Session()
    session.request(ask("default", "ROOTCA"))
    assert session.owes
    assert not world.answer(session, "n1")
    world["ROOTCA"] = "1"
    assert not world.answer(session, "n1")
    world["default"] = "1"
    assert world.answer(session, "n1") == ("default", "ROOTCA")
    assert not session.owes


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        pytest.param(ask("default", nonce="n1"), (), id="ack"),
        pytest.param(ask("default", nonce="n0"), (), id="stale"),
        pytest.param(ask("default", "ROOTCA", nonce="n0"), (), id="stale with more"),
        pytest.param(ask("default", "ROOTCA", nonce="n1"), ("ROOTCA",), id="only the added"),
        pytest.param(ask("default"), ("default",), id="again without nonce"),
        pytest.param(ask("ROOTCA", nonce="n1"), ("ROOTCA",), id="another"),
        pytest.param(ask(nonce="n1"), (), id="unsubscribe"),
        pytest.param(ask(), (), id="no names"),
        pytest.param(ask("default", "default"), ("default",), id="twice in one"),
    ],
)
def test_a_request_on_a_running_stream(
    session: Session, world: World, request_: xds_pb2.Request, answer: tuple[str, ...]
) -> None:
    assert session.request(request_) is None
    assert world.answer(session, "n2") == answer


def test_a_rejection_is_told_and_not_answered(session: Session, world: World) -> None:
    status = xds_pb2.Status(code=13, message="no use")
    assert session.request(ask("default", nonce="n1", error_detail=status)) == Rejected("no use")
    assert not world.answer(session, "n2")
    world["default"] = "2"
    assert world.answer(session, "n2") == ("default",)


def test_a_new_stream_with_an_old_nonce_is_answered(world: World) -> None:
    session = Session()
    session.request(ask("default", nonce="of another stream"))
    assert world.answer(session, "n1") == ("default",)


def test_given_up_and_wanted_again(session: Session, world: World) -> None:
    session.request(ask(nonce="n1"))
    world["default"] = "2"
    assert not world.answer(session, "n2")
    session.request(ask("default", nonce="n1"))
    assert world.answer(session, "n2") == ("default",)


def test_pushes_carry_one_changed_secret_each(session: Session, world: World) -> None:
    session.request(ask("default", "ROOTCA", nonce="n1"))
    world.answer(session, "n2")
    assert not world.answer(session, "n3")
    world["ROOTCA"] = "2"
    assert world.answer(session, "n3") == ("ROOTCA",)
    world.update(default="2", ROOTCA="3")
    assert {world.answer(session, "n4"), world.answer(session, "n5")} == {("default",), ("ROOTCA",)}
    assert not world.answer(session, "n6")


def test_what_is_gone_is_not_pushed(session: Session, world: World) -> None:
    del world["default"]
    assert not world.answer(session, "n2")


@pytest.mark.parametrize(
    "request_", [ask(*map(str, range(MAX_NAMES + 1))), xds_pb2.Request(node=NODE, type_url="x", resource_names=["a"])]
)
def test_a_foreign_or_greedy_stream_is_refused(request_: xds_pb2.Request) -> None:
    refusal = Session().request(request_)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "INVALID_ARGUMENT"


# ------------------------------------------------------------------------------------------------ delta


def delta(*subscribe: str, drop: tuple[str, ...] = (), **more: Any) -> xds_pb2.DeltaRequest:
    return xds_pb2.DeltaRequest(node=NODE, resource_names_subscribe=subscribe, resource_names_unsubscribe=drop, **more)


def test_delta_answers_what_is_there_and_pushes_what_changed(world: World) -> None:
    session = DeltaSession()
    session.request(delta("default", "late"))
    assert world.answer(session, "n1") == ("default",)
    assert session.owes
    world["late"] = "1"
    assert world.answer(session, "n2") == ("late",)
    world.update(default="2", late="2")
    assert world.answer(session, "n3") == ("default", "late")
    session.request(delta(drop=("late",)))
    world.update(default="3", late="3")
    assert world.answer(session, "n4") == ("default",)
    session.request(delta("default"))
    assert world.answer(session, "n5") == ("default",)


def test_delta_does_not_repeat_what_a_new_stream_has(world: World) -> None:
    session = DeltaSession()
    session.request(delta("default", "ROOTCA", initial_resource_versions={"default": "1", "ROOTCA": "0"}))
    assert world.answer(session, "n1") == ("ROOTCA",)
    assert not world.answer(session, "n2")


def test_delta_rejection_and_greed(world: World) -> None:
    session = DeltaSession()
    session.request(delta("default"))
    world.answer(session, "n1")
    assert session.request(delta(error_detail=xds_pb2.Status(message="no"))) == Rejected("no")
    assert not world.answer(session, "n2")
    assert isinstance(session.request(delta(*map(str, range(MAX_NAMES)))), Refusal)


def test_a_refused_delta_request_changes_nothing(world: World) -> None:
    session = DeltaSession()
    session.request(delta("default"))
    world.answer(session, "n1")
    assert isinstance(session.request(delta(*map(str, range(100_000)), drop=("default",))), Refusal)
    assert session.names == ("default",)
    assert not session.owes
    assert session.request(delta(*map(str, range(MAX_NAMES)), drop=("default",))) is None
    assert len(session.names) == MAX_NAMES


@pytest.mark.parametrize("kind", [Session, DeltaSession])
def test_news_of_the_workload_are_skipped_until_the_node_is_known(kind: type[Any], world: World) -> None:
    session, request = kind(), ask("default") if kind is Session else delta("default")
    for news in ({}, {"node": NODE}):
        assert session.request(type(request)(type_url=HEALTH_TYPE, **news)) is None
    assert (session.names, session.owes) == ((), False)
    assert isinstance(session.request(type(request)()), Refusal), "they name no node"
    assert session.request(request) is None
    assert world.answer(session, "n1") == ("default",)
    assert isinstance(session.request(type(request)(type_url=HEALTH_TYPE)), Refusal)


# ------------------------------------------------------------------------------------------------ any sequence


class Model:
    """What the specification says of a stream, in sets. `has`: name -> the version that was sent last, None = none."""

    def __init__(self) -> None:
        self.node, self.nonce, self.stale = False, "", 0
        self.has: dict[str, str | None] = {}
        self.owed: set[str] = set()

    def judge(self, request: Any) -> type | None:
        if not self.node and request.type_url == HEALTH_TYPE:
            return None
        if not (self.node or request.node.id) or request.type_url not in ("", SECRET_TYPE):
            return Refusal
        first, self.node = not self.node, True
        rejected = request.HasField("error_detail")
        self.take(request, first, rejected)
        return Rejected if rejected else None

    def take(self, request: Any, first: bool, rejected: bool) -> None:
        raise NotImplementedError

    def due(self, versions: World) -> set[str]:
        raise NotImplementedError

    def changed(self, versions: World) -> set[str]:
        return {n for n, had in self.has.items() if n not in self.owed and versions.get(n, had) != had}


class StateModel(Model):
    def take(self, request: Any, first: bool, rejected: bool) -> None:
        names, again = set(request.resource_names), not (self.has and request.response_nonce)
        if rejected:
            return
        if names and not again and request.response_nonce != self.nonce:
            self.stale += 1
            return
        self.owed = {n for n in names if again or n in self.owed or n not in self.has}
        self.has = {n: self.has.get(n) for n in names}

    def due(self, versions: World) -> set[str]:
        if self.owed:
            return self.owed if self.owed <= versions.keys() else set()
        return self.changed(versions)


class DeltaModel(Model):
    def take(self, request: Any, first: bool, rejected: bool) -> None:
        had = request.initial_resource_versions if first else {}
        dropped, added = set(request.resource_names_unsubscribe), set(request.resource_names_subscribe)
        self.owed = (self.owed - dropped) | (added - had.keys())
        self.has = {n: v for n, v in self.has.items() if n not in dropped} | {n: had.get(n) for n in added}

    def due(self, versions: World) -> set[str]:
        return self.owed & versions.keys() or self.changed(versions)


NAME = st.sampled_from(["default", "ROOTCA", ""])
NAMES = st.lists(NAME, max_size=4)
SELDOM = st.integers(0, 15).map(lambda number: number == 15)
REQUESTS = st.fixed_dictionaries(
    {
        "names": st.one_of(st.none(), NAMES),  # None: those it has, an ACK
        "dropped": st.one_of(st.just([]), NAMES),
        "had": st.dictionaries(NAME, st.sampled_from("12"), max_size=2),
        "nonce": st.sampled_from(["last", "last", "last", "", "old"]),
        "nameless": SELDOM,
        "type": st.sampled_from([SECRET_TYPE] * 16 + ["", HEALTH_TYPE, "foreign"]),
        "rejects": SELDOM,
    }
)
CHANGES = st.dictionaries(NAME, st.sampled_from(["1", "2", "3", None]), min_size=1)
STEPS = st.lists(st.tuples(st.one_of(REQUESTS, CHANGES), st.booleans()), min_size=5, max_size=40)


def build(kind: type[Any], step: dict[str, Any], model: Model) -> Any:
    common: dict[str, Any] = {
        "node": None if step["nameless"] else NODE,
        "type_url": step["type"],
        "response_nonce": {"": "", "last": model.nonce, "old": "of long ago"}[step["nonce"]],
        "error_detail": xds_pb2.Status(message="no use") if step["rejects"] else None,
    }
    if kind is Session:
        names = [*model.has] if step["names"] is None else step["names"]
        return xds_pb2.Request(resource_names=names, **common)
    return xds_pb2.DeltaRequest(
        resource_names_subscribe=step["names"] or (),
        resource_names_unsubscribe=step["dropped"],
        initial_resource_versions=step["had"],
        **common,
    )


@pytest.mark.parametrize(("kind", "model"), [(Session, StateModel()), (DeltaSession, DeltaModel())])
@settings(max_examples=300)
@given(steps=STEPS)
def test_any_sequence_agrees_with_a_model(kind: type[Any], model: Model, steps: list[Any]) -> None:
    world, session, model = World(default="1", ROOTCA="1"), kind(), type(model)()
    for number, (step, idle) in enumerate([*steps, *[({}, False)] * 10]):  # in the end everything is sent
        if "names" in step:
            request = build(kind, step, model)
            outcome = session.request(request)
            assert (None if outcome is None else type(outcome)) is model.judge(request)
        else:
            world.update(step)
            for name in [n for n, version in world.items() if version is None]:
                del world[name]
        assert set(session.names) == model.has.keys()
        assert (session.owes, session.stale) == (bool(model.owed), model.stale)
        due, want = session.due(world.get), model.due(world)
        if kind is Session and not model.owed:
            assert len(due) == min(1, len(want)), "a push carries one secret"
            want = set(due) & want
        assert (set(due), len(due)) == (want, len(want))
        if due and not idle:
            model.nonce = f"n{number}"
            session.sent(due, model.nonce, world.get)
            model.has.update((n, world[n]) for n in due)
            model.owed -= set(due)
    assert not model.due(world), "never comes to rest"
