import json

import pytest

from agent.cli import events
from agent.errors import FatalError
from agent.events import Recorder
from tests.agent.cli.test_control import answering, free_port


def shown(recorder: Recorder, capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    body = recorder.to_json().encode()
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)) as (port, asked):
        assert events.run([f"--status-port={port}", *flags], {}) == 0
    assert asked == [b"GET /debug/events HTTP/1.1"]
    return capsys.readouterr().out.splitlines()


def filled() -> Recorder:
    recorder = Recorder(size=2)
    recorder.record("agent", "started", "gone by now")
    recorder.record("identity", "rotated", "renewed the certificate", serial="ab")
    recorder.record("envoy", "crashed", "Envoy was killed", pid=7)
    return recorder


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = shown(filled(), capsys)
    assert first == "(1 older events are no longer here)"
    assert second.endswith("identity rotated          renewed the certificate serial=ab")
    assert second[10] == "T"
    assert third.endswith("envoy    crashed          Envoy was killed pid=7")


def test_one_component_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(filled(), capsys, "--json", "--component=envoy")
    assert json.loads(line)["fields"] == {"pid": 7}


def test_nobody_there() -> None:
    with pytest.raises(FatalError, match="the agent was not reached"):
        events.run([f"--status-port={free_port()}"], {})
