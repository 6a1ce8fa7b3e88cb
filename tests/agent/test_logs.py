import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import logs
from agent.errors import ConfigError


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
    for name in ("xdsproxy", "sds"):
        logs.scope(name).setLevel(logging.NOTSET)
    for name in logs.LIBRARIES:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True
        library.setLevel(logging.NOTSET)


def test_a_text_line_is_time_level_scope_message_labels(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False)
    logs.scope("xdsproxy").warning("stream ended", extra={"labels": {"code": 14}})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\twarn\txdsproxy\tstream ended\tcode=14\n", out.getvalue()
    )


def test_nobody_else_writes_a_line(out: Output) -> None:
    logs.configure({"default": "debug"}, as_json=False)
    forged = "no\n2026-01-01T00:00:00.000000Z\terror\tforged\x1b[2J\r"
    try:
        raise ValueError(forged)
    except ValueError as e:
        logs.scope("sds").warning("rejected: %s", e, extra={"labels": {"why": forged}}, exc_info=True)
    first, *stack = out.getvalue().split("\n")[:-1]
    assert first.count("\t") == 4
    assert "\\x1b[2J\\r\twhy=no\\n2026" in first
    assert "Traceback (most recent call last):" in stack[0]
    assert any("    raise ValueError(forged)" in line for line in stack)
    assert all(line[0] == "\t" and line[1:].isprintable() for line in stack)


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


def test_lines_may_name_their_caller(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False, callers=("sds",))
    logs.scope("sds").info("a")
    logs.scope("dns").info("b")
    first, second = out.getvalue().splitlines()
    assert re.fullmatch(r"[^\t]+\tinfo\tsds\ttest_logs\.py:\d+\ta", first)
    assert second.endswith("\tinfo\tdns\tb")
    logs.configure({"default": "info"}, as_json=True, callers=("all",))
    logs.scope("dns").info("b")
    assert json.loads(out.getvalue())["caller"].startswith("test_logs.py:")


def test_stacks_by_level(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False, stacks={"default": "none", "sds": "error"})
    logs.scope("sds").warning("no stack")
    logs.scope("dns").error("no stack")
    assert out.getvalue().count("\n") == 2
    logs.scope("sds").error("stack")
    assert "test_stacks_by_level" in out.getvalue()
    logs.configure({"default": "info"}, as_json=True, stacks={"default": "warn"})
    logs.scope("dns").warning("x")
    assert "test_stacks_by_level" in json.loads(out.getvalue())["stack"]


def test_repeating_lines_are_counted(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False, repeats=3)
    for i in range(10):
        logs.scope("sds").warning("again %d", i % 2)
    assert out.getvalue().count("again") == 6
    logging.getLogger("agent").handlers[0].close()
    assert [line.split("\t")[1:] for line in out.getvalue().splitlines()] == [
        ["warn", "sds", f"repeated 2 more times within a minute: again {i}"] for i in (0, 1)
    ]


def test_libraries_speak_through_the_same_lines_without_tracebacks(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False)
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("asyncio").error("a callback failed", exc_info=True)
    logs.set_levels({"default": "info", "asyncio": "none"})
    logging.getLogger("asyncio").error("hidden")
    assert [line.split("\t")[1:] for line in out.getvalue().splitlines()] == [
        ["error", "asyncio", "a callback failed"],
    ]


def test_levels_can_change_and_change_back(out: Output) -> None:
    logs.configure({"default": "info"}, as_json=False)
    logs.set_levels({"default": "warn", "sds": "debug"})
    logs.scope("sds").debug("shown")
    logs.scope("dns").info("hidden")
    logs.set_levels({"default": "info"})
    logs.scope("sds").debug("hidden")
    logs.scope("dns").info("shown")
    assert [line.split("\t")[3] for line in out.getvalue().splitlines()] == ["shown", "shown"]


def test_a_target_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--log_target .*/no/file cannot be written: No such file or directory"):
        logs.configure({}, as_json=False, targets=(str(tmp_path / "no/file"),))
