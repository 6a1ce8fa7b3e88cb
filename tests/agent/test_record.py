"""Records behave as dataclasses do, and whoever speaks to dataclasses may speak to them."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.record import fresh, message, record, replace, state

MANY = 200  # by then a class has an `__init__` of its own


@record
class Point:
    """A point."""

    x: int
    y: int = 0
    secret: str = "s"

    unshown = ("secret",)

    @property
    def far(self) -> int:
        return self.x + self.y


def test_fields_defaults_and_methods() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 2).far, Point(x=1, y=5).y) == (1, 0, 3, 5)
    assert repr(Point(1, secret="hidden")) == "Point(x=1, y=0)"


@pytest.mark.parametrize(
    "make", [lambda: Point(), lambda: Point(1, 2, "s", 4), lambda: Point(1, z=3), lambda: Point(1, x=1)]
)
def test_wrong_fields_are_refused(make: Callable[[], Point]) -> None:
    with pytest.raises(TypeError, match="Point with wrong fields"):
        make()


@record
class Page:
    """Every kind of field; their names are those that an `__init__` would like to use itself."""

    values: int
    fresh: list[int] = fresh(factory=list)
    defaults: str = "d"
    seen: float = 0.0
    aside = ("seen",)


@message
class Note:
    values: int
    fresh: list[int] = fresh(factory=list)
    defaults: str = "d"
    seen: float = 0.0
    aside = ("seen",)


@state
class Count:
    values: int
    fresh: list[int] = fresh(factory=list)
    defaults: str = "d"
    seen: float = 0.0


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", [Page, Note, Count])
def test_every_kind_of_class_is_made_in_the_same_way(kind: Any, many: bool) -> None:
    for n in range(MANY if many else 0):
        assert kind(n).values == n
    one, given = kind(1), [5]
    assert vars(one) == {"values": 1, "fresh": [], "defaults": "d", "seen": 0.0}
    assert vars(kind(2, given, seen=3.0)) == {"values": 2, "fresh": [5], "defaults": "d", "seen": 3.0}
    assert kind(2, given).fresh is given
    assert one.fresh is not kind(1).fresh
    assert vars(replace(one, values=4, defaults="x")) == {"values": 4, "fresh": [], "defaults": "x", "seen": 0.0}
    assert repr(one) == f"{kind.__name__}(values=1, fresh=[], defaults='d', seen=0.0)"
    assert copy.deepcopy(one).fresh == pickle.loads(pickle.dumps(one)).fresh == []
    for wrong in (
        lambda: kind(),
        lambda: kind(1, [], "d", 0.0, 5),
        lambda: kind(1, other=2),
        lambda: kind(1, values=1),
    ):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize("many", [False, True])
def test_what_can_be_changed_and_what_is_equal(many: bool) -> None:
    for n in range(MANY if many else 0):
        Page(n), Note(n), Count(n)
    page: Any = Page(1)
    with pytest.raises(AttributeError, match="frozen"):
        page.seen = 1.0
    assert (page == Page(1, seen=9.0), page == Page(2), Note(1) == Note(1, seen=9.0)) == (True, False, True)
    assert page != Note(1)
    count = Count(1)
    count.values += 1
    count.fresh.append(7)
    assert (count.values, count.fresh, Count(1).fresh) == (2, [7], [])
    assert count != Count(2, [7])
    assert len({count, Count(2)}) == 2


def test_records_are_values() -> None:
    assert Point(1) == Point(1, 0)
    assert Point(1) != Point(2)
    assert Point(1) != (1, 0, "s")
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_records_are_frozen() -> None:
    point: Any = Point(1)
    for attempt in (lambda: setattr(point, "x", 2), lambda: setattr(point, "new", 2), lambda: delattr(point, "x")):
        with pytest.raises(AttributeError, match="frozen"):
            attempt()
    assert point == Point(1)


@pytest.mark.parametrize("change", [replace, dataclasses.replace])
def test_replace(change: Callable[..., Point]) -> None:
    assert change(Point(1, 2), x=3) == Point(3, 2)
    with pytest.raises(TypeError):
        change(Point(1, 2), z=3)


def test_dataclasses_know_records() -> None:
    assert dataclasses.is_dataclass(Point)
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 0, "secret": "s"}
    assert [f.name for f in dataclasses.fields(Point)] == ["x", "y", "secret"]


def test_copies_and_patterns() -> None:
    assert copy.copy(Point(1)) == copy.deepcopy(Point(1)) == pickle.loads(pickle.dumps(Point(1))) == Point(1)
    match Point(3, 4):
        case Point(3, y):
            assert y == 4


def test_the_configuration_is_read_without_dataclasses() -> None:
    heavy = ("dataclasses", "inspect", "asyncio", "yaml")
    code = f"import sys, agent.settings.load, agent.boot; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_envoy_is_served_its_configuration_before_what_is_seldom_used_is_loaded() -> None:
    heavy = ("dataclasses", "inspect", "gzip", "ipaddress", "locale", "pathlib", "secrets", "tokenize", "urllib.parse")
    code = (
        "import sys; from agent.cli import proxy; from agent.deferred import stand_in; stand_in(*proxy.SELDOM); "
        f"import agent.app, agent.xds.proxy; print([m for m in {heavy} if type(sys.modules.get(m)) is type(sys)])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_nothing_that_stays_in_memory_is_a_dataclass() -> None:
    agent = Path(__file__).parents[2] / "agent"
    resident = [p for p in agent.rglob("*.py") if p.relative_to(agent).parts[0] not in ("cli", "lab", "record.py")]
    assert len(resident) > 100
    assert [str(path) for path in resident if "dataclasses" in path.read_text()] == []
