"""The command line of `lab up`; a running mesh: tests/e2e/test_demo.py."""

from pathlib import Path

import pytest

from agent.lab import up


def test_a_mesh_file_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert up.run([], {}) == 255
    assert "--mesh" in capsys.readouterr().err


def test_an_unreadable_mesh_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert up.run(["--mesh", str(tmp_path / "none.yaml")], {}) == 255
    error = capsys.readouterr().err
    assert error.startswith("Error: cannot read the mesh file")
    assert error.count("\n") == 1


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert up.run(["--help"], {}) == 0
    assert "workloads:" in capsys.readouterr().out
