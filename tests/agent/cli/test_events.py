import json
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from agent.cli import events
from agent.errors import ConfigError, FatalError
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
    recorder.record("envoy", "crashed", "Envoy was killed", level=logging.ERROR, pid=7)
    return recorder


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = shown(filled(), capsys)
    assert first == "(1 older events are no longer here)"
    assert second.endswith("info  identity rotated          renewed the certificate serial=ab")
    assert second[10] == "T"
    assert third.endswith("error envoy    crashed          Envoy was killed pid=7")


def test_one_component_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = shown(filled(), capsys, "--json", "--component=envoy")
    assert json.loads(line)["fields"] == {"pid": 7}


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ([], ["rotated", "crashed"]),
        (["--level=warning"], ["crashed"]),
        (["--level=error"], ["crashed"]),
        (["--level=fatal"], []),
        (["--level=debug", "--since=10m"], ["rotated", "crashed"]),
        (["--since=0.000001ms"], []),
        (["--component=identity", "--level=warn"], []),
    ],
)
def test_only_some(flags: list[str], kinds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(filled(), capsys, "--json", *flags)
    assert [json.loads(line)["kind"] for line in lines] == kinds


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--component=envoi", "--component 'envoi' is unknown: it is one of agent, dns, envoy"),
        ("--level=loud", "--level 'loud' is unknown: it is one of debug, info, warn"),
        ("--since=yesterday", "--since: 'yesterday' is not a duration"),
    ],
)
def test_what_cannot_be_asked(flag: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        events.run([flag], {})


def test_every_component_can_be_asked_for() -> None:
    sources = "".join(path.read_text() for path in Path("agent").rglob("*.py"))
    assert {*re.findall(r'(?:_recorder|\brecorder)\.record\(\s*"(\w+)"', sources)} == {*events.COMPONENTS}


def test_a_line_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder()
    recorder.record("sds", "rejected", "no\n\x1b[2J", why="\r")
    (line,) = shown(recorder, capsys)
    assert line.endswith(r"no\n\x1b[2J why=\r")


def test_following_shows_each_event_once_until_the_agent_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PERIOD", 0.0)
    recorder, restarted, pages = Recorder(), Recorder(), []
    for number in range(3):
        pages.append(recorder.to_json())
        recorder.record("dns", "x", f"event {number}")
    restarted.record("dns", "x", "of another agent")
    told = [*pages, pages[-1], restarted.to_json()]
    with serving(told) as port, pytest.raises(FatalError, match="the agent was not reached"):
        events.run([f"--status-port={port}", "--follow"], {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" x ")[2].strip() for line in lines] == ["event 0", "event 1", "of another agent"]


@contextmanager
def serving(pages: list[str]) -> Iterator[int]:
    """A port that gives one page to each caller and is gone after the last."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server:
            for page in pages:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {len(page)}\r\n\r\n{page}".encode())

    thread = Thread(target=serve)
    thread.start()
    yield int(server.getsockname()[1])
    thread.join(10)


def test_nobody_there() -> None:
    with pytest.raises(FatalError, match="the agent was not reached"):
        events.run([f"--status-port={free_port()}"], {})
