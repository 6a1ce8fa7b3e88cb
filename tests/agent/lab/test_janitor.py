"""The janitor's housekeeping without namespaces; with them: tests/netns/test_lab_net.py."""

import os
from pathlib import Path

from agent.lab.janitor import Janitor, clean, members


def test_a_namespace_that_does_not_exist_has_no_members() -> None:
    assert members("rlnone-at-all") == []


def test_cleaning_what_is_gone_is_no_problem(tmp_path: Path) -> None:
    assert clean(["rlnone-at-all"], [str(tmp_path / "gone")]) == []


def test_closing_removes_what_was_announced(tmp_path: Path) -> None:
    made = tmp_path / "work"
    janitor = Janitor()
    janitor.directory(made)
    (made / "deep").mkdir(parents=True)
    assert janitor.close() == []
    assert not made.exists()
    assert janitor.close() == []


def test_a_killed_janitor_is_stood_in_for(tmp_path: Path) -> None:
    made = tmp_path / "work"
    made.mkdir()
    janitor = Janitor()
    janitor.directory(made)
    os.kill(janitor.pid, 9)
    assert janitor.close() == []
    assert not made.exists()
