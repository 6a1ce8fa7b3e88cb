import fcntl
import json
import os
import pty
import struct
import termios
import time
from contextlib import redirect_stdout
from typing import Any

import pytest

from agent.cli import certs
from agent.errors import ConfigError, FatalError
from agent.identity import report
from agent.identity.certs import verify
from agent.identity.journal import RenewalStatus
from tests.agent.cli.test_control import answering, free_port
from tests.fakes.ca import Root

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"
ROOT = Root("root")


def row(ttl: float = 3600.0, status: RenewalStatus | None = None, token: tuple[float | None, str] = (None, "")) -> Any:
    now = time.time()
    key, leaf = ROOT.workload(SPIFFE, ttl)
    secret = verify([leaf.decode(), ROOT.pem.decode()], key, SPIFFE, min(now, now + ttl - 1))
    return report.describe(secret, status or RenewalStatus(), ("istiod:15012",), token, now)


def page(rows: Any) -> bytes:
    body = json.dumps(rows).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def shown(rows: Any, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    with answering(page(rows)) as (port, asked):
        status = certs.run([f"--status-port={port}", *flags], {})
    assert asked == [b"GET /debug/certs HTTP/1.1"]
    return status, capsys.readouterr().out


def test_a_valid_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = shown([row()], capsys)
    assert status == 0
    assert text.startswith("default: OK, valid for 59m59s more\n")
    assert "\x1b" not in text


def test_trouble_is_said_and_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = shown([row(-5.0)], capsys)
    assert (status, text.startswith("default: EXPIRED ")) == (1, True)
    none = report.describe(None, RenewalStatus(), ("a:1",), (None, ""), time.time())
    assert shown([none], capsys)[0] == 1
    assert shown([row(), none], capsys)[0] == 1
    status, text = shown([], capsys)
    assert (status, "no certificates" in text) == (1, True)


def test_what_is_not_served_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "name": "default", "source": "files", "files": ["c", "k"], "served": True, "issuers": [], "roots": [],
        "certificate": row()["certificate"], "last_error": None,
    }  # fmt: skip
    unserved = {**row(-5.0), "served": False, "shadowed_by": ["c", "k"]}
    assert shown([unserved, files], capsys)[0] == 0
    assert shown([unserved], capsys)[0] == 1


@pytest.mark.parametrize(("there", "status"), [(True, 0), (False, 1)])
def test_another_server_has_it(there: bool, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = {"name": "default", "source": "external", "socket": "./s", "there": there, "roots": []}
    found, text = shown([elsewhere], capsys)
    assert (found, "./s" in text) == (status, True)


@pytest.mark.parametrize(("environ", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_on_a_terminal_lines_fit_and_verdicts_have_colours(environ: dict[str, str], colour: bool) -> None:
    """A real one, 60 columns wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with os.fdopen(slave, "w") as terminal, answering(page([row()])) as (port, _), redirect_stdout(terminal):
        assert certs.run([f"--status-port={port}"], environ) == 0
        terminal.flush()
        text = os.read(master, 1 << 16).decode()
    os.close(master)
    assert ("\x1b[1;32mOK\x1b[0m" in text) is colour
    assert max(map(len, text.splitlines())) <= 60


def test_json_is_what_the_agent_says(capsys: pytest.CaptureFixture[str]) -> None:
    good = row()
    status, text = shown([good], capsys, "--json")
    assert (status, json.loads(text)) == (0, json.loads(json.dumps([good])))
    assert "PRIVATE" not in text


def test_nobody_or_somebody_else_there() -> None:
    with pytest.raises(FatalError, match="the agent was not reached") as caught:
        certs.run([f"--status-port={free_port()}"], {})
    assert caught.value.exit_code == 2
    for answer, phrase in (
        (b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", "404"),
        (page("x")[:-3] + b"}}}", "no agent"),
        (page([{"name": "a", "source": "ca", "roots": None}]), "no agent"),
        (page([{"name": 1, "source": [], "roots": [7]}]), "no agent"),
    ):
        with answering(answer) as (port, _), pytest.raises(FatalError, match=phrase):
            certs.run([f"--status-port={port}"], {})
    with pytest.raises(ConfigError, match="no arguments"):
        certs.run(["x"], {})
