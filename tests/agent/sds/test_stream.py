from contextlib import ExitStack
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from agent.protos import xds_pb2
from agent.sds.session import SECRET_TYPE, DeltaSession, Refusal, Rejected, Session
from agent.sds.stream import AT_ONCE, Broadcast, Delta, StateOfTheWorld


def test_everybody_is_told_whatever_happens_to_another(caplog: pytest.LogCaptureFixture) -> None:
    changes, told, sent = Broadcast(), [], []

    def broken() -> None:
        raise ValueError("stream 1")

    with changes.listening(broken), changes.listening(lambda: told.append(2)):
        assert len(changes) == 2
        changes.notify(lambda: sent.append(len(told)))
    assert (told, sent, len(changes)) == ([2], [1], 0)
    changes.notify(lambda: sent.append(-1))
    assert sent == [1]


def test_the_first_do_not_wait_for_the_last() -> None:
    changes, told, sent = Broadcast(), [], []
    with ExitStack() as stack:
        for i in range(AT_ONCE + 1):
            stack.enter_context(changes.listening(lambda i=i: told.append(i)))
        changes.notify(lambda: sent.append(len(told)))
    assert sent == [AT_ONCE, AT_ONCE + 1]


NODE = xds_pb2.Node(id="n")
PIECES = st.sampled_from(
    [
        NODE.SerializeToString(),
        xds_pb2.Request(node=NODE, type_url=SECRET_TYPE, resource_names=["a", "b"]).SerializeToString(),
        xds_pb2.DeltaRequest(node=NODE, type_url=SECRET_TYPE, resource_names_subscribe=["a"]).SerializeToString(),
        xds_pb2.DeltaRequest(node=NODE, initial_resource_versions={"a": "1"}).SerializeToString(),
        xds_pb2.Request(error_detail=xds_pb2.Status(code=3, message="x")).SerializeToString(),
    ]
)
JOINED = st.lists(st.one_of(PIECES, st.binary(max_size=3)), max_size=4).map(b"".join)
REQUESTS = st.one_of(st.binary(max_size=60), JOINED)


@pytest.mark.parametrize(("dialect", "kind"), [(StateOfTheWorld(), Session), (Delta(), DeltaSession)])
@given(raws=st.lists(REQUESTS, max_size=6))
def test_any_bytes_are_a_request_or_refused(dialect: Any, kind: type[Any], raws: list[bytes]) -> None:
    session = kind()
    for raw in raws:
        try:
            request = dialect.parse(raw)
        except DecodeError:
            continue
        assert isinstance(session.request(request), Refusal | Rejected | None)
        if names := session.due({"a": "1", "b": "2"}.get):
            session.sent(names, "n", {"a": "1", "b": "2"}.get)
