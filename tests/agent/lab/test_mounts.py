"""Which directories stand in the way, and what is bound back in."""

from pathlib import Path

import pytest

from agent.errors import FatalError
from agent.lab.mounts import Cover, plan, private_namespace, unreadable, walkable


def tree(base: Path, *names: str) -> list[Path]:
    made = [base / name for name in names]
    for path in made:
        path.mkdir(parents=True)
    return made


def test_nothing_is_covered_where_everybody_may_walk(tmp_path: Path) -> None:
    needed = tree(tmp_path, "usr/venv", "opt/project")
    assert plan(needed, lambda _: True) == []


def test_the_outermost_blocker_is_covered_once(tmp_path: Path) -> None:
    needed = tree(tmp_path, "root/.pyenv/3.11", "root/project/.venv", "usr/venv")
    closed = {tmp_path / "root", tmp_path / "root/.pyenv"}
    assert plan(needed, lambda d: d not in closed) == [Cover(tmp_path / "root", (needed[0], needed[1]))]


def test_a_tree_inside_another_comes_along(tmp_path: Path) -> None:
    project, venv = tree(tmp_path, "home/project", "home/project/.venv")
    assert plan([venv, project], lambda d: d != tmp_path / "home") == [Cover(tmp_path / "home", (project,))]


def test_links_are_followed_to_where_they_lead(tmp_path: Path) -> None:
    (real,) = tree(tmp_path, "closed/versions/3.11.7")
    (tmp_path / "closed/versions/3.11").symlink_to("3.11.7")
    (tmp_path / "open").mkdir()
    (tmp_path / "open/python").symlink_to(real)
    (tmp_path / "door").symlink_to(tmp_path / "closed")

    def may_walk(directory: Path) -> bool:
        return directory.resolve() != tmp_path / "closed"

    assert plan([tmp_path / "open/python"], may_walk) == [Cover(tmp_path / "closed", (real,))]
    named = tmp_path / "closed/versions/3.11"
    assert plan([named], may_walk) == [Cover(tmp_path / "closed", (named, real))]
    assert plan([tmp_path / "door/versions/3.11.7"], may_walk) == [Cover(tmp_path / "closed", (real,))]


def test_a_needed_tree_that_is_closed_itself_is_named(tmp_path: Path) -> None:
    (closed,) = tree(tmp_path, "venv")
    closed.chmod(0o700)
    assert not walkable(closed)
    assert unreadable([closed, tmp_path / "missing"]) == [closed]
    with pytest.raises(FatalError, match="chmod"):
        private_namespace([closed], {})
