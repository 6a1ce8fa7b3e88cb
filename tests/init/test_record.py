import subprocess
import sys

import pytest

from init.record import record, replace


@record
class Point:
    x: int
    y: int = 0
    note: str = ""
    aside = ("note",)


@record
class Other:
    x: int
    y: int = 0


def test_fields_by_place_name_and_default() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 2).y, Point(y=3, x=4).y) == (1, 0, 2, 3)
    assert repr(Point(1, note="n")) == "Point(x=1, y=0, note='n')"


def test_wrong_fields_are_refused() -> None:
    for wrong in (lambda: Point(), lambda: Point(1, z=2), lambda: Point(1, 2, "a", "b")):
        with pytest.raises(TypeError, match="Point with wrong fields"):
            wrong()


def test_equality_and_hash_leave_out_what_is_aside() -> None:
    assert Point(1) == Point(1, note="n")
    assert len({Point(1), Point(1, note="n"), Point(2)}) == 2
    assert Point(1) != Other(1)


def test_frozen() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="x cannot be set"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="x cannot be deleted"):
        del point.x
    assert replace(point, x=2) == Point(2)
    with pytest.raises(TypeError):
        replace(point, z=2)


def test_the_rules_need_little_of_the_standard_library() -> None:
    """Every run of an init container pays for imports."""
    names = "init.__main__, init.apply, init.validate" + (", agent.__main__, agent.cli.flags, agent.cli.rules")
    program = f"import sys, {names}; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())
    assert "init.restore" in loaded
    heavy = {
        "dataclasses",
        "inspect",
        "subprocess",
        "typing",
        "logging",
        "json",
        "asyncio",
        "ctypes",
        "threading",
        "ast",
    }
    assert loaded & heavy == set()
