import json
import logging
import re
from collections.abc import Iterator

import pytest

from agent import logs


class Output:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.getvalue = lambda: capsys.readouterr().out


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> Iterator[Output]:
    yield Output(capsys)
    root = logging.getLogger("agent")
    root.handlers.clear()
    root.propagate = True
    root.setLevel(logging.NOTSET)
    for name in ("xdsproxy", "sds", "grpc"):
        logs.scope(name).setLevel(logging.NOTSET)


def test_a_text_line_is_time_level_scope_message_labels(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False)
    logs.scope("xdsproxy").warning("stream ended", extra={"labels": {"code": 14}})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\twarn\txdsproxy\tstream ended\tcode=14\n", out.getvalue()
    )


def test_the_default_scope_is_not_named(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False)
    logs.scope("default").info("hello")
    assert out.getvalue().split("\t")[1:] == ["info", "hello\n"]


def test_json_lines_carry_labels_at_the_top_level(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=True)
    logs.scope("sds").error("no", extra={"labels": {"resource": "default"}})
    entry = json.loads(out.getvalue())
    assert (entry["level"], entry["scope"], entry["msg"], entry["resource"]) == ("error", "sds", "no", "default")


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"default": "info"}, ["info"]),
        ({"default": "debug"}, ["debug", "info"]),
        ({"default": "none"}, []),
        ({"default": "error", "sds": "debug"}, ["debug", "info"]),
        ({"default": "debug", "all": "info"}, ["info"]),
        ({"all": "debug", "sds": "error"}, ["debug", "info"]),
        ({"default": "info", "nosuch": "debug"}, ["info"]),
    ],
)
def test_levels(out: Output, levels: dict[str, str], expected: list[str]) -> None:
    logs.configure(levels, as_json=False)
    logs.scope("sds").debug("debug")
    logs.scope("sds").info("info")
    assert [line.split("\t")[3] for line in out.getvalue().splitlines()] == expected


def test_tracebacks_are_for_those_who_ask_for_debug_logs(out: Output) -> None:
    for level, shown in (("info", False), ("debug", True)):
        logs.configure({"default": level}, as_json=False)
        try:
            raise ValueError("inner")
        except ValueError:
            logs.scope("default").error("it failed", exc_info=True)
        assert ("Traceback" in out.getvalue()) is shown
