"""The run as data: log lines, spans from observations, what the request stream lost."""

from hypothesis import given
from hypothesis import strategies as st

from agent.lab.timeline import Lane, Sample, Span, State, Timeline, loss, merge_samples, parse_log
from agent.lab.traffic import Request


def test_log_lines_become_times_messages_and_labels() -> None:
    lines = parse_log(
        [
            "2026-11-21T05:19:36.776354Z\terror\tEnvoy was killed.\tcomponent=envoy\tevent=crashed\tstatus=-9\n",
            "2026-11-21T05:19:36.884994Z\tinfo\tsds\tsecrets are served on ./x=y/socket\n",
            "I1121 05:19:36.777199 31058 fork_posix.cc:71] something else\n",
            "not a time\tinfo\tmessage\n",
            "\n",
        ]
    )
    assert [(line.level, line.message, line.event) for line in lines] == [
        ("error", "Envoy was killed.", "crashed"),
        ("info", "secrets are served on ./x=y/socket", ""),
    ]
    assert lines[0].labels == {"component": "envoy", "event": "crashed", "status": "-9"}
    assert round(lines[1].time - lines[0].time, 5) == 0.10864


@given(st.lists(st.text()))
def test_any_text_may_stand_in_a_log(lines: list[str]) -> None:
    assert len(parse_log(lines)) <= len(lines)


def test_a_state_lasts_until_another_is_seen() -> None:
    seen = [
        Sample(1.0, None),
        Sample(2.0, State.STARTING, "pid 1"),
        Sample(3.0, State.UP, "pid 1"),
        Sample(4.0, State.UP, "pid 1"),
        Sample(5.0, State.UP, "pid 2", since=4.5),
        Sample(6.0, None),
        Sample(7.0, None),
        Sample(8.0, State.UP, "pid 3"),
    ]
    assert merge_samples(seen, 9.0) == [
        Span(2.0, 3.0, State.STARTING, "pid 1"),
        Span(3.0, 4.5, State.UP, "pid 1"),
        Span(4.5, 6.0, State.UP, "pid 2"),
        Span(8.0, 9.0, State.UP, "pid 3"),
    ]
    assert merge_samples([], 1.0) == []


def test_loss_counts_failures_and_the_longest_gap() -> None:
    requests = [Request(0.0, "kept", 200, 1000), Request(1.0, "new", 503, 5), Request(2.5, "kept", 200, 500)]
    lost = loss(requests)
    assert (lost.total, lost.failed, lost.gap, lost.worst_ms) == (3, 1, 2.0, 1000)
    assert str(lost) == "1 of 3 requests failed"
    assert loss([]).gap == 0.0


def test_lanes_keep_the_order_of_their_first_use() -> None:
    timeline = Timeline(0.0, 1.0)
    first = timeline.lane("b")
    assert timeline.lane("a") == Lane("a")
    assert timeline.lane("b") is first
    assert [lane.name for lane in timeline.lanes] == ["b", "a"]
