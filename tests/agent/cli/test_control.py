import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from agent.cli import certs, config, control, drain, events, log, xds
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


@pytest.mark.parametrize(
    ("run", "argv"),
    [(certs.run, []), (events.run, []), (xds.run, []), (config.run, ["show", "--running"]), (log.run, [])],
)
@pytest.mark.parametrize("page", ['{"status": "ok"}', "[1]", "[[]]", "null", "[{}]", "hello", "[" * 100_000])
def test_a_server_that_is_no_agent_is_one_sentence(
    run: Callable[[list[str], dict[str, str]], int], argv: list[str], page: str
) -> None:
    answer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(page)}\r\n\r\n{page}".encode()
    with answering(answer) as (port, _), pytest.raises(FatalError, match=r"is no agent: its answer to /[a-z/]+ is not"):
        run([*argv, f"--status-port={port}"], {})


@pytest.mark.parametrize(
    ("flag", "annotations", "proxy_config", "mesh", "port"),
    [
        ([], None, None, None, 15020),
        ([], None, None, "defaultConfig:\n  statusPort: 1001\n", 1001),
        ([], None, "{}", "defaultConfig: {status_port: 1001}", 1001),
        ([], None, '{"statusPort": 1002}', "defaultConfig: {status_port: 1001}", 1002),
        ([], None, "discoveryAddress: a:1\nstatusPort: '1002'\n", None, 1002),
        ([], {"proxy.istio.io/config": "drainDuration: 1s\nstatusPort: 1003\n"}, "statusPort: 1002", None, 1003),
        ([], {"proxy.istio.io/config": '{"statusPort":1003}'}, "statusPort: 1002", None, 1003),
        ([], {"a": "b", "status.sidecar.istio.io/port": "1004"}, "statusPort: 1002", None, 1004),
        (["--status-port=1005"], {"status.sidecar.istio.io/port": "1004"}, "statusPort: 1002", None, 1005),
        ([], {"status.sidecar.istio.io/port": "off"}, None, None, 15020),
    ],
)
def test_the_port_is_found_where_the_agent_finds_it(
    flag: list[str],
    annotations: dict[str, str] | None,
    proxy_config: str | None,
    mesh: str | None,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, text in (
        ("etc/istio/pod/annotations", "".join(f"{k}={json.dumps(v)}\n" for k, v in (annotations or {}).items())),
        ("etc/istio/config/mesh", mesh),
    ):
        if text:
            (tmp_path / path).parent.mkdir(parents=True)
            (tmp_path / path).write_text(text)
    environ = {} if proxy_config is None else {"PROXY_CONFIG": proxy_config}
    assert control.port_of(quit_.FLAGS.parse(flag), environ) == port
