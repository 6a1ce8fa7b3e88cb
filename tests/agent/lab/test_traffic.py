"""The request log: written and read back, also while it is being written."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.lab.traffic import Log, Request, line, parse

GOOD = Request(12.5, "kept", 200, 3.25, headers={"x-config": "v1"})
LOST = Request(12.6, "new", 0, 5000.0, "TimeoutError: timed out")


def test_records_survive_the_log() -> None:
    assert parse([line(GOOD), line(LOST)]) == [GOOD, LOST]
    assert (GOOD.ok, LOST.ok) == (True, False)
    assert LOST.end == 17.6


def test_what_is_no_record_is_left_out() -> None:
    assert parse(["", "{", "[]", "null", '"x"', '{"start": 1}', line(GOOD)[:-4], '{"start":"x","status":2}']) == []


@given(st.lists(st.text()))
def test_any_text_may_stand_in_the_file(lines: list[str]) -> None:
    assert len(parse(lines)) <= len(lines)


def test_a_growing_log_is_read_once_and_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "traffic.log"
    first, second = line(GOOD), line(LOST)
    path.write_text(first + "\n" + second[:10])
    log = Log(path)
    assert log.requests() == [GOOD]
    path.write_text(first + "\n" + second + "\n")
    assert log.requests() == [GOOD, LOST]
    assert log.requests(since=12.55) == [LOST]
