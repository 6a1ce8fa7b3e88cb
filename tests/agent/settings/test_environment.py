"""Values that do not parse become the default and one warning."""

from agent.settings.environment import Environment


def test_typed_values() -> None:
    env = Environment({"T": "x", "E": "", "B": "T", "N": "7", "F": "1.5", "D": "2m", "BAD": "many"})
    assert (env.text("T"), env.text("E", "d"), env.text("NONE", "d")) == ("x", "", "d")
    assert (env.flag("B", False), env.flag("NONE", True)) == (True, True)
    assert (env.number("N", 1), env.real("F", 0), env.seconds("D", 0)) == (7, 1.5, 120)
    assert env.warnings == []
    assert (env.flag("BAD", True), env.number("BAD", 3), env.real("BAD", 2.0), env.seconds("BAD", 4)) == (
        True,
        3,
        2.0,
        4,
    )
    assert len(env.warnings) == 4
    assert all("BAD='many'" in w for w in env.warnings)


def test_numbers_are_finite() -> None:
    env = Environment({"A": "nan", "B": "-inf", "C": "1e999"})
    assert [env.real(name, 0.5) for name in "ABC"] == [0.5] * 3


def test_set_to_nothing_is_the_default_without_a_warning() -> None:
    env = Environment({"E": ""})
    assert env.flag("E", True) is True
    assert env.warnings == []


def test_what_was_read_is_kept() -> None:
    env = Environment({"T": "x", "N": "7", "BAD": "many", "E": "", "D": "90s"})
    for name in ("T", "NONE"):
        env.text(name, "d")
    for name in ("N", "BAD", "E", "MISSING"):
        env.number(name, 3)
    env.seconds("D", 1)
    env.seconds("D2", 0.5)
    assert (env.optional("T"), env.optional("O")) == ("x", None)
    assert {name: tuple(used) for name, used in env.used.items()} == {
        "T": ("x", "environment"),
        "NONE": ("d", "default"),
        "N": (7, "environment"),
        "BAD": (3, "default (the environment's value is unusable)"),
        "E": (3, "default"),
        "MISSING": (3, "default"),
        "D": ("90s", "environment"),
        "D2": ("0.5s", "default"),
        "O": (None, "default"),
    }
