"""`log` against a status server of its own."""

import asyncio
import json
import logging
from collections.abc import Sequence

import pytest

from agent import logs
from agent.cli.log import run
from agent.config import StatusConfig
from agent.errors import ConfigError, FatalError
from agent.status.bind import bind
from agent.status.loglevels import LogLevels
from agent.status.server import StatusServer


def against_a_server(*commands: Sequence[str]) -> list[int]:
    """Exit codes of the commands, one after the other."""

    async def nothing() -> None:
        return None

    async def main() -> list[int]:
        logs.configure({"default": "info"}, as_json=False)
        sock = bind(0)
        routes = {"/logging": LogLevels({"default": "info"}).answer}
        server = StatusServer(StatusConfig(0), sock, [], nothing, lambda: None, routes=routes)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            try:
                return [await asyncio.to_thread(run, [*c, f"--status-port={server.port}"], {}) for c in commands]
            finally:
                task.cancel()

    try:
        return asyncio.run(main())
    finally:
        root = logging.getLogger("agent")
        root.handlers.clear()
        root.propagate = True
        root.setLevel(logging.NOTSET)
        logging.getLogger("agent.sds").setLevel(logging.NOTSET)


def test_set_and_reset(capsys: pytest.CaptureFixture[str]) -> None:
    assert against_a_server(["sds:debug,default:warn", "--for", "90s"], [], ["reset"]) == [0, 0, 0]
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [a["levels"] for a in answers] == [
        {"default": "warn", "sds": "debug"},
        {"default": "warn", "sds": "debug"},
        {"default": "info"},
    ]
    assert 80 < answers[1]["seconds_left"] <= 90


@pytest.mark.parametrize("argv", [["loud"], ["debug", "--for=2h"], ["a&b=c:debug,:"]])
def test_what_the_agent_refuses(argv: list[str]) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        against_a_server(argv)
    assert caught.group_contains(ConfigError)


@pytest.mark.parametrize("argv", [["debug", "info"], ["debug", "--for=x"], ["debug", "--status-port=0"]])
def test_usage(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        run(argv, {})


def test_nobody_there() -> None:
    with bind(0) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(FatalError, match="the agent was not reached"):
        run(["debug", f"--status-port={port}"], {})
