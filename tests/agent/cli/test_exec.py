"""`exec` as a process, against a status port whose answers are scripted; the whole agent: tests/netns/test_jobs.py."""

import http.server
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import exec as job
from agent.errors import ConfigError
from tests.agent.cli.test_control import free_port
from tests.fakes.envoy import wait_for


class Server(http.server.ThreadingHTTPServer):
    statuses: list[int]
    asked: list[str]

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked.append(f"{self.command} {self.path}")
        statuses = server.statuses
        status = 200 if self.command == "POST" else statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status)
        body = b"because" if status != 200 else b""
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        return


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.statuses, server.asked = [200], []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def start(port: int, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "agent", "exec", f"--status-port={port}", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("script", "status"), [("echo hello", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_waits_runs_quits_and_has_the_status(server: Server, script: str, status: int) -> None:
    server.statuses = [503, 503, 200]
    ended, out, err = finish(start(server.port, "--", "sh", "-c", script))
    assert (ended, err) == (status, "")
    assert out == ("hello\n" if not status else "")
    assert server.asked == ["GET /healthz/ready"] * 3 + ["POST /quitquitquit"]


@pytest.mark.parametrize(("command", "status"), [("/nosuch/command", 127), ("/etc/passwd", 126), ("/", 126)])
def test_a_command_that_cannot_be_run(server: Server, command: str, status: int) -> None:
    ended, _, err = finish(start(server.port, "--", command))
    assert ended == status
    assert err.startswith(f"Error: {command} cannot be run: ")
    assert server.asked[-1] == "POST /quitquitquit"


def test_a_proxy_that_does_not_get_ready(server: Server, tmp_path: Path) -> None:
    """The container fails and its agent stays: a restart of the container may find it ready."""
    server.statuses = [503]
    words = ("--timeout=200ms", "--", "touch", str(tmp_path / "ran"))
    ended, out, err = finish(start(server.port, *words))
    said = "Error: the proxy was not ready within 0.2 seconds: because; the command was not run"
    assert (ended, out, err) == (1, "", f"{said}, the agent is left alone\n")
    assert not (tmp_path / "ran").exists()
    assert "POST /quitquitquit" not in server.asked
    server.statuses = [200]
    assert finish(start(server.port, *words))[0] == 0
    assert (tmp_path / "ran").exists()
    assert server.asked[-1] == "POST /quitquitquit"


def test_asked_for_the_agent_ends_although_the_command_was_never_run(server: Server) -> None:
    server.statuses = [503]
    ended, _, err = finish(start(server.port, "--timeout=100ms", "--quit-when=always", "--", "echo"))
    assert (ended, err.count("\n")) == (1, 1)
    assert err.endswith("because; the command was not run, the agent ends\n")
    assert server.asked[-1] == "POST /quitquitquit"


@pytest.mark.parametrize(
    ("when", "script", "quits"),
    [
        ("ran", "exit 3", True),
        ("success", "exit 0", True),
        ("success", "exit 3", False),
        ("success", "kill -9 $$", False),
        ("always", "exit 3", True),
        ("never", "exit 0", False),
    ],
)
def test_when_the_agent_ends(server: Server, when: str, script: str, quits: bool) -> None:
    assert finish(start(server.port, "--quit-when", when, "--", "sh", "-c", script))[2] == ""
    assert ("POST /quitquitquit" in server.asked) is quits


def test_no_proxy() -> None:
    ended, out, err = finish(start(free_port(), "--timeout=100ms", "--", "echo", "ran"))
    assert (ended, out) == (1, "")
    assert "refused" in err
    ended, out, err = finish(start(free_port(), "--timeout=100ms", "--if-present", "--", "echo", "ran"))
    assert (ended, out) == (0, "ran\n")
    assert "runs without it" in err


def test_the_proxy_must_be_ready_if_it_is_present(server: Server) -> None:
    server.statuses = [503]
    ended, out, _ = finish(start(server.port, "--timeout=100ms", "--if-present", "--", "echo", "ran"))
    assert (ended, out) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_command(server: Server, number: signal.Signals) -> None:
    script = f"trap 'echo got {number:d}; exit 3' {number:d}; echo up; while :; do sleep 0.05; done"
    process = start(server.port, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert finish(process) == (3, f"got {number:d}\n", "")


def test_a_signal_ends_the_wait(server: Server) -> None:
    server.statuses = [503]
    process = start(server.port, "--", "echo", "ran")
    wait_for(lambda: server.asked)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == (128 + signal.SIGTERM, "", "")
    assert "POST /quitquitquit" not in server.asked


def test_the_command_starts_with_no_signal_blocked_or_ignored(server: Server) -> None:
    _, out, _ = finish(start(server.port, "--", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))
    assert [int(line.split()[1], 16) & 0x7FFFFFFF for line in out.splitlines()] == [0, 0]


def test_an_agent_that_has_gone_does_not_change_the_status(server: Server) -> None:
    command = [
        sys.executable,
        "-m",
        "agent",
        "exec",
        f"--status-port={server.port}",
        "--",
        "sh",
        "-c",
        "read x; exit 4",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: server.asked)
    server.shutdown()
    server.server_close()
    _, err = process.communicate("go\n", timeout=20)
    assert process.returncode == 4
    assert err.startswith("Warning: the agent was not reached")


@pytest.mark.root
def test_orphans_are_collected(server: Server) -> None:
    script = "(sleep 0.05 &); sleep 0.4; grep -h ^State: /proc/[0-9]*/status"
    inner = f"exec {sys.executable} -m agent exec --status-port={server.port} -- sh -c '{script}'"
    command = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", inner]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert "State:" in done.stdout
    assert "zombie" not in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--"],
        ["echo"],
        ["--timeout=soon", "--", "echo"],
        ["--status-port=0", "--", "echo"],
        ["--quit-when=x", "--", "a"],
    ],
)
def test_usage_errors(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        job.run(argv, {})
