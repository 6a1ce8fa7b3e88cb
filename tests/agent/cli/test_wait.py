"""`wait` against a server whose answers are scripted."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from agent.cli.wait import run
from agent.errors import ConfigError


class Server(http.server.ThreadingHTTPServer):
    statuses: list[int]
    asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked += 1
        self.send_response(server.statuses.pop(0) if len(server.statuses) > 1 else server.statuses[0])
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
        return


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: Server) -> str:
    return f"--url=http://127.0.0.1:{server.server_address[1]}/healthz/ready"


def test_ends_at_the_first_200(server: Server) -> None:
    server.statuses = [503, 404, 204, 200]
    assert run([url(server), "--periodMillis=5", "--timeoutSeconds=30"], {}) == 0
    assert server.asked == 4


def test_gives_up_and_says_what_it_saw(server: Server) -> None:
    server.statuses = [503]
    with pytest.raises(ConfigError, match="within 1 seconds: it answers with status 503"):
        run([url(server), "--periodMillis=50", "--timeoutSeconds=1"], {})


def test_no_time_no_question(server: Server) -> None:
    server.statuses = [200]
    with pytest.raises(ConfigError, match="nothing was asked"):
        run([url(server), "--timeoutSeconds=0"], {})
    assert server.asked == 0


@pytest.mark.parametrize("argv", [["--url=nonsense"], ["--timeoutSeconds=soon"], ["--nosuch"]])
def test_usage_errors(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        run(argv, {})
