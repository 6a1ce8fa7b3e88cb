"""`config show` and `config check` as commands."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.cli.config import run
from agent.errors import ConfigError, FatalError
from agent.settings.load import load
from agent.settings.show import as_json

ENV = {"CLOUD_PLATFORM": "none", "POD_NAME": "a\nb", "DISABLE_ENVOY": "true", "INSTANCE_IP": "10.0.0.1"}


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "var/run/secrets/istio/root-cert.pem"
    root.parent.mkdir(parents=True)
    root.write_text("root")


def test_show_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "router", "--domain=x"], ENV) == 0
    out = capsys.readouterr().out
    assert "\nenvironment:\n" in out
    assert "\nproxy config:\n" in out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["POD_NAME"])
    assert row.split(None, 1)[1] == "a\\nb  (environment)"
    assert "router~10.0.0.1~" in out


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--json", "show", "--domain", "x"], ENV) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"group": "flag", "name": "--domain", "value": "x", "source": "flag"} in rows
    assert not any(row["name"] == "--json" for row in rows)


@pytest.fixture
def answers() -> Iterator[tuple[int, dict[str, str]]]:
    """(port, path → JSON) of a server on loopback."""
    said: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = said.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port, said
    server.shutdown()
    thread.join()
    server.server_close()


def test_show_of_the_running_agent(answers: tuple[int, dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    port, said = answers
    asked = ["show", "--running", f"--status-port={port}"]
    with pytest.raises(FatalError, match="answered /debug/config with status 404"):
        run(asked, {})
    said["/debug/config"] = as_json(load(["router"], ENV))
    assert run(asked, {}) == 0
    running = capsys.readouterr().out
    assert run(["show", "router"], ENV) == 0
    assert running == capsys.readouterr().out
    assert run([*asked, "--json"], {}) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(said["/debug/config"])
    for more in ("router", "--domain=x", "--nosuch=1"):
        with pytest.raises(ConfigError, match="leave them out"):
            run([*asked, more], {})


def test_check_of_ports(answers: tuple[int, dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    env = {**ENV, "PROXY_CONFIG": f"statusPort: {answers[0]}"}
    assert run(["check"], env) == 255
    assert f"the status port (statusPort) cannot be tcp {answers[0]}: Address already in use" in capsys.readouterr().err
    assert run(["check", "--running"], env) == 0


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        free = {**ENV, "PROXY_CONFIG": f"statusPort: {closing.getsockname()[1]}"}
    assert run(["check"], free) == 0
    assert capsys.readouterr().out == "The configuration is usable.\n"
    assert run(["check", "--log_output_level=x"], {**ENV, "REDIRECT_GUARD": "x", "SECRET_TTL": "x"}) == 255
    out, err = capsys.readouterr()
    assert out.startswith("warning: SECRET_TTL")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["Error", "Error"]


def test_check_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "nosuch", "--json"], ENV) == 255
    found = json.loads(capsys.readouterr().out)
    assert len(found["problems"]) == 1
    assert found["warnings"] == []


def test_a_configuration_that_cannot_work_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="invalid proxy Type"):
        run(["show", "nosuch"], ENV)


@pytest.mark.parametrize("argv", [[], ["list"]])
def test_it_must_be_told_what_to_do(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="config show or config check"):
        run(argv, ENV)
