import json
import logging

import pytest

from agent.events import Recorder


def test_the_ring_keeps_the_newest_and_counts_what_fell_out() -> None:
    recorder = Recorder(size=3)
    for n in range(5):
        recorder.record("envoy", "crashed", f"number {n}", pid=n)
    assert [e.fields["pid"] for e in recorder.events()] == [2, 3, 4]
    assert recorder.dropped == 2


def test_a_dump_is_one_json_object_a_line() -> None:
    recorder = Recorder()
    recorder.record("rules", "repaired", "put the rules back", milliseconds=12.5)
    (line,) = recorder.dump().splitlines()
    event = json.loads(line)
    assert event["component"] == "rules"
    assert event["fields"] == {"milliseconds": 12.5}


def test_every_event_is_logged_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="agent"):
        Recorder().record("xds", "connected", "connected to the control plane", endpoint="a:15012")
    assert caplog.records[0].labels == {"component": "xds", "event": "connected", "endpoint": "a:15012"}  # type: ignore[attr-defined]


def test_the_page_says_how_much_is_missing() -> None:
    recorder = Recorder(size=1)
    recorder.record("sds", "rejected", "one")
    recorder.record("sds", "rejected", "two", names="default")
    page = json.loads(recorder.to_json())
    assert page["dropped"] == 1
    assert [(e["message"], e["fields"]) for e in page["events"]] == [("two", {"names": "default"})]
