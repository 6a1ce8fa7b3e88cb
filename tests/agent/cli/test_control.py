import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from agent.cli import drain
from agent.cli import quit as quit_
from agent.errors import ConfigError, FatalError


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A port whose first caller gets `answer`; what was asked comes into the list."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65536).split(b"\r\n")[0])
                connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], asked
        thread.join(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(("run", "path"), [(quit_.run, "/quitquitquit"), (drain.run, "/drain")])
def test_the_order_is_posted(
    run: Callable[[list[str], dict[str, str]], int], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK") as (port, asked):
        assert run([f"--status-port={port}"], {}) == 0
    assert asked == [f"POST {path} HTTP/1.1".encode()]
    assert capsys.readouterr().out.count("\n") == 1


def test_nobody_there_is_one_sentence() -> None:
    with pytest.raises(FatalError, match="the agent was not reached: localhost:") as caught:
        quit_.run([f"--status-port={free_port()}"], {})
    assert "refused" in str(caught.value)


def test_somebody_else_is_there() -> None:
    with (
        answering(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nno!\n") as (port, _),
        pytest.raises(FatalError, match="answered /drain with status 403: no!"),
    ):
        drain.run([f"--status-port={port}"], {})


@pytest.mark.parametrize("argv", [["now"], ["--status-port=0"], ["--status-port=70000"], ["--nosuch"]])
def test_usage_errors(argv: list[str]) -> None:
    for run in (quit_.run, drain.run):
        with pytest.raises(ConfigError):
            run(argv, {})
