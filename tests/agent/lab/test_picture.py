"""The drawing: positions that do not collide, everything shown, nothing unescaped."""

from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from agent.lab.picture import WIDTH, Picture, spread, tick_step
from agent.lab.timeline import Mark, MarkKind, Phase, Span, State, Timeline
from agent.lab.traffic import Request


@given(st.lists(st.floats(0, 1000), max_size=20).map(sorted))
def test_spread_keeps_order_distance_and_bounds(wanted: list[float]) -> None:
    placed = spread(wanted, 21.0, 0.0, 1000.0)
    assert len(placed) == len(wanted)
    assert all(b - a >= 21.0 - 1e-6 for a, b in pairwise(placed))
    assert all(p <= 1000.0 for p in placed)


def test_spread_leaves_alone_what_fits() -> None:
    assert spread([10.0, 50.0, 90.0], 20.0, 0.0, 100.0) == [10.0, 50.0, 90.0]
    assert spread([50.0, 50.0], 20.0, 0.0, 60.0) == [40.0, 60.0]


@given(st.floats(0.01, 4000))
def test_ticks_are_round_and_few(seconds: float) -> None:
    assert seconds / tick_step(seconds) <= 14


def example() -> Timeline:
    timeline = Timeline(100.0, 110.0)
    lane = timeline.lane("b: Envoy <1>")
    lane.spans += [Span(101.0, 104.0, State.UP, "pid 1"), Span(104.2, 110.0, State.UNREADY)]
    lane.marks += [
        Mark(104.0, MarkKind.FAULT, "kill -9 & gone", "kill -9"),
        Mark(104.2, MarkKind.GOOD, "back", "back"),
        Mark(109.9, MarkKind.EVENT, "something", "a label at the very end"),
    ]
    timeline.lane("never used")
    timeline.phases += [
        Phase(1, "short", 100.5, 100.51, True, "fine"),
        Phase(2, "B's Envoy killed", 101.0, 109.0, False, "expected <this>"),
    ]
    timeline.requests += [
        Request(103.0, "kept", 200, 3.0),
        Request(104.05, "new", 503, 12.0, "upstream <connect> error"),
        Request(104.1, "new", 0, 99999.0, "timed out"),
    ]
    return timeline


def test_the_picture_is_well_formed_and_complete() -> None:
    svg = ElementTree.fromstring(Picture(example()).svg())
    titles = [t.text or "" for t in svg.iter("title")]
    assert any("upstream <connect> error" in t and "HTTP 503" in t for t in titles)
    assert any("no answer" in t for t in titles)
    assert any("expected <this>" in t for t in titles)
    texts = [t.text for t in svg.iter("text")]
    assert "b: Envoy <1>" in texts
    assert "never used" not in texts
    assert "kill -9" in texts
    groups = [g.get("class") for g in svg.iter("g")]
    assert groups.count("lost") == 2
    assert "step bad" in groups
    dots = [p.get("d", "") for p in svg.iter("path") if p.get("class") == "good-requests"]
    assert [d.count("M") for d in dots] == [1]
    for rect in svg.iter("rect"):
        assert 0 <= float(rect.get("x", "-1")) <= WIDTH


def test_an_empty_run_can_be_drawn() -> None:
    ElementTree.fromstring(Picture(Timeline(1.0, 1.0)).svg())
