from typing import Any

import pytest
from hypothesis import given
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

NAMES = st.sampled_from(["default", "ROOTCA", "other", ""])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(NAMES, max_size=3), st.sampled_from(["", "last", "old"]), st.booleans()),
        st.tuples(st.just("set"), NAMES, st.integers(0, 3)),
        st.tuples(st.just("send")),
    ),
    max_size=30,
)


@given(STEPS)
def test_a_stream_ends_up_with_the_newest_of_what_it_subscribed_to(steps: list[tuple[Any, ...]]) -> None:
    world, session, have, nonces = World(), Session(), {}, [""]

    def send() -> tuple[str, ...]:
        names = world.answer(session, f"n{len(nonces)}")
        if names:
            nonces.append(f"n{len(nonces)}")
        for name in names:
            assert name in session.names, "sent what nobody wants"
            have[name] = world[name]
        return names

    for step in steps:
        match step:
            case ("ask", names, nonce, bad):
                number = {"": "", "last": nonces[-1], "old": "stale"}[nonce]
                error = xds_pb2.Status(message="bad") if bad else None
                outcome = session.request(ask(*names, nonce=number, error_detail=error))
                assert isinstance(outcome, Rejected) == bad
            case ("set", name, version):
                world[name] = str(version)
            case _:
                send()
    for name in session.names:
        world.setdefault(name, "late")
    rounds = 0
    while send():
        rounds += 1
        assert rounds <= 10, "never comes to rest"
    assert {n: have.get(n) for n in session.names} == {n: world[n] for n in session.names}


@given(st.lists(st.tuples(st.lists(NAMES, max_size=3), st.lists(NAMES, max_size=3), st.integers(0, 3)), max_size=20))
def test_a_delta_stream_ends_up_with_the_newest_too(steps: list[tuple[list[str], list[str], int]]) -> None:
    world, session, have = World(), DeltaSession(), {}

    def send() -> tuple[str, ...]:
        names = world.answer(session, "n")
        have.update((n, world[n]) for n in names)
        return names

    for wanted, dropped, version in steps:
        assert session.request(delta(*wanted, drop=tuple(dropped))) is None
        if version:
            world["default"] = world["ROOTCA"] = str(version)
        send()
    for name in session.names:
        world.setdefault(name, "late")
    while send():
        pass
    assert not session.owes
    assert all(have[n] == world[n] for n in session.names)
