"""Levels change, tell so, and come back by themselves."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from agent import logs
from agent.status.http import Request
from agent.status.loglevels import LogLevels


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    root = logging.getLogger("agent")
    root.handlers.clear()
    root.propagate = True
    for name in ("agent", "agent.sds", "agent.dns", "agent.grpc"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def request(method: str, query: str = "", peer: str = "127.0.0.1") -> Request:
    return Request(method, "/logging", query, {}, peer)


def levels() -> tuple[int, int]:
    return logging.getLogger("agent").getEffectiveLevel(), logging.getLogger("agent.sds").getEffectiveLevel()


def test_a_change_ends_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        logs.configure({"default": "error"}, as_json=False)
        control = LogLevels({"default": "error"})
        answer = await control.answer(request("POST", "level=sds:debug&seconds=0.05"))
        assert answer.status == 200
        assert levels() == (logging.ERROR, logging.DEBUG)
        async with asyncio.timeout(5):
            while levels() != (logging.ERROR, logging.ERROR):
                await asyncio.sleep(0.005)

    asyncio.run(run())
    out = capsys.readouterr().out
    assert "Log levels are sds:debug for 0.05 s." in out
    assert "Log levels are as configured again." in out


def test_a_second_change_replaces_the_first_and_reset_ends_it() -> None:
    async def run() -> list[dict[str, Any]]:
        logs.configure({"default": "info"}, as_json=False)
        control = LogLevels({"default": "info"})
        told = []
        for method, query in (
            ("POST", "level=sds:debug&seconds=100"),
            ("POST", "level=debug"),
            ("GET", ""),
            ("POST", "level=reset"),
        ):
            told.append(json.loads((await control.answer(request(method, query))).body))
        return told

    first, second, third, last = asyncio.run(run())
    assert first["levels"] == {"default": "info", "sds": "debug"}
    assert second["levels"] == third["levels"] == {"default": "debug"}
    assert 290 < third["seconds_left"] <= 300
    assert (last["levels"], last["seconds_left"]) == ({"default": "info"}, 0.0)
    assert levels() == (logging.INFO, logging.INFO)


def test_what_is_asked_for_beats_a_configured_all() -> None:
    async def run() -> None:
        logs.configure({"all": "error"}, as_json=False)
        await LogLevels({"all": "error", "default": "info"}).answer(request("POST", "level=sds:debug"))
        assert levels() == (logging.ERROR, logging.DEBUG)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "query", "peer", "status"),
    [
        ("POST", "", "127.0.0.1", 400),
        ("POST", "level=loud", "127.0.0.1", 400),
        ("POST", "level=debug&seconds=0", "127.0.0.1", 400),
        ("POST", "level=debug&seconds=3601", "127.0.0.1", 400),
        ("POST", "level=debug&seconds=nan", "127.0.0.1", 400),
        ("POST", "level=debug&seconds=x", "127.0.0.1", 400),
        ("POST", "level=debug", "10.0.0.1", 403),
        ("GET", "", "10.0.0.1", 403),
        ("DELETE", "", "127.0.0.1", 405),
    ],
)
def test_refusals(method: str, query: str, peer: str, status: int) -> None:
    async def run() -> None:
        answer = await LogLevels({"default": "info"}).answer(request(method, query, peer))
        assert answer.status == status
        assert answer.body.count(b"\n") == 1

    asyncio.run(run())
