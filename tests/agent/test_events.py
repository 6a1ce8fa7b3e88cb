import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import logs
from agent.events import Recorder


def test_the_ring_keeps_the_newest_and_counts_what_fell_out() -> None:
    recorder = Recorder(size=3)
    for n in range(5):
        recorder.record("envoy", "crashed", f"number {n}", pid=n)
    assert [e.fields["pid"] for e in recorder.events()] == [2, 3, 4]
    assert recorder.dropped == 2


def test_a_component_that_talks_much_leaves_the_first_events_of_others() -> None:
    recorder = Recorder(size=64)  # four are reserved for each
    recorder.record("identity", "renewal-failed", "the cause")
    for n in range(6):
        recorder.record("sds", "rejected", f"{n}")
    for n in range(200):
        recorder.record("xds", "flapping", f"{n}")
    events = recorder.events()
    assert len(events) == 64
    assert events[0].message == "the cause"
    assert [e.message for e in events if e.component == "sds"] == ["2", "3", "4", "5"]
    assert [e.message for e in events if e.component == "xds"] == [str(n) for n in range(141, 200)]
    assert [e.number for e in events] == sorted(e.number for e in events)
    assert recorder.dropped_by_component == {"sds": 2, "xds": 141}
    assert recorder.dropped == 143


@given(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=300), st.integers(1, 40))
def test_the_ring_is_bounded_and_counts_right(components: list[str], size: int) -> None:
    recorder = Recorder(size=size)
    for component in components:
        recorder.record(component, "x", "y", level=logging.DEBUG)
    assert len(recorder.events()) == min(size, len(components))
    assert recorder.dropped == max(0, len(components) - size)


@pytest.mark.parametrize("as_json", [True, False])
def test_it_is_written_where_the_log_goes_in_its_format_whatever_the_levels(as_json: bool, tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.record("rules", "repaired", "put the\nrules back", milliseconds=12.5)
    for _ in range(3):
        recorder.record("identity", "renewal-failed", "the CA is away", level=logging.WARNING)
    target = tmp_path / "log"
    try:
        logs.configure({"default": "none"}, as_json, (str(target),), repeats=1)
        recorder.write("SIGUSR1")
    finally:
        for handler in logging.getLogger("agent").handlers:
            handler.close()
        logging.getLogger("agent").handlers.clear()
        logging.getLogger("agent").propagate = True
        logging.getLogger("agent").setLevel(logging.NOTSET)
        for name in logs.LIBRARIES:
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True
            logging.getLogger(name).setLevel(logging.NOTSET)
    head, first, *others = target.read_text().splitlines()
    assert "flight recorder, written because of SIGUSR1: 4 events" in head
    assert len(others) == 3
    if as_json:
        entry = json.loads(first)
        assert (entry["level"], entry["component"], entry["event"]) == ("info", "rules", "repaired")
        assert (entry["milliseconds"], entry["at"][10]) == (12.5, "T")
        assert {json.loads(line)["level"] for line in others} == {"warn"}
    else:
        _, level, message, *labels = first.split("\t")
        assert (level, message) == ("info", r"put the\nrules back")
        assert labels[:2] == ["component=rules", "event=repaired"]
        assert {line.split("\t")[1] for line in others} == {"warn"}


def test_every_event_is_logged_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="agent"):
        Recorder().record("xds", "connected", "connected to the control plane", endpoint="a:15012")
    assert caplog.records[0].labels == {"component": "xds", "event": "connected", "endpoint": "a:15012"}  # type: ignore[attr-defined]


def test_the_page_says_how_much_is_missing() -> None:
    recorder = Recorder(size=1)
    recorder.record("sds", "rejected", "one")
    recorder.record("sds", "rejected", "two", level=logging.WARNING, names="default")
    page = json.loads(recorder.to_json())
    assert page["dropped"] == 1
    assert [(e["level"], e["number"]) for e in page["events"]] == [("warn", 2)]
    assert [(e["message"], e["fields"]) for e in page["events"]] == [("two", {"names": "default"})]
