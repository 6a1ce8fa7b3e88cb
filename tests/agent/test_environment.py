"""Values that do not parse become the default and one warning."""

from agent.environment import Environment


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
