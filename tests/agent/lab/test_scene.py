"""What the steps write down for the report."""

from types import SimpleNamespace
from typing import Any, cast

from agent.lab.scene import Run, milliseconds
from agent.lab.timeline import MarkKind, Timeline


def test_faults_and_recoveries_become_marks() -> None:
    nothing = cast(Any, SimpleNamespace())
    run = Run(nothing, nothing, nothing, "http://b/", Timeline(0.0, 0.0))
    when = run.fault("CA", "the CA is killed", "killed")
    run.recovered("CA", when + 1, "back")
    assert [(m.kind, m.label) for m in run.timeline.lane("CA").marks] == [
        (MarkKind.FAULT, "killed"),
        (MarkKind.GOOD, ""),
    ]
    run.stop_stream()  # none was started: nothing to do


def test_milliseconds_are_whole() -> None:
    assert milliseconds(0.0126) == "13 ms"
