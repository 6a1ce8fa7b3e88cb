"""The demo's command line; the demo itself: tests/e2e/test_demo.py."""

import pytest

from agent.lab import demo
from agent.lab.mesh import parse


def test_bad_arguments_are_a_configuration_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(["--nonsense"], {}) == 255
    assert capsys.readouterr().err.startswith("Error: remora-agent lab demo: unrecognized arguments: --nonsense")


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(["--help"], {}) == 0
    assert "--report" in capsys.readouterr().out


def test_a_missing_envoy_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run([], {"LAB_ENVOY": "/nowhere/envoy"}) == 255
    assert capsys.readouterr().err.count("\n") == 1


def test_the_mesh_of_the_demo_has_what_its_steps_need() -> None:
    mesh = parse(demo.MESH)
    assert [w.name for w in mesh.workloads] == ["a", "b"]
    assert [s.headers for s in mesh.services if s.name == "b"] == [{"x-config": "v1"}]
    assert all(mesh.services_of(w) for w in mesh.workloads)
