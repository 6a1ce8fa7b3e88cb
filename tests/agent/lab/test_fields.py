"""Typed access to a mapping: defaults, presence, unknown keys."""

import pytest

from agent.lab.fields import LABEL, Invalid, Table, is_address, kind


def test_values_and_defaults() -> None:
    table = Table({"name": "b", "port": 80, "ip": "::0001", "rows": [{"x": 1}], "none": None}, "row")
    assert table.label("name") == "b"
    assert table.port("port") == 80
    assert table.port("other", 81) == 81
    assert table.address("ip") == "::1"
    assert [row.take("x") for row in table.rows("rows")] == [1]
    assert table.take("none", "default") == "default"
    table.finish()


def test_paths_name_the_key() -> None:
    table = Table({"a": {"b": 1}}, "row")
    inner = table.table("a")
    with pytest.raises(Invalid, match=r"^row\.a\.b is not a known key$"):
        inner.finish()
    with pytest.raises(Invalid, match=r"^row\.name is missing$"):
        Table({}, "row").label("name")


def test_labels_and_addresses() -> None:
    assert LABEL.fullmatch("a-1")
    assert not any(LABEL.fullmatch(text) for text in ("", "-a", "a-", "A", "a.b", "a" * 64))
    assert is_address("10.0.0.1")
    assert not any(is_address(text) for text in ("0.0.0.0", "::", "fe80::1%eth0", "10.0.0", "10.0.0.1/8"))


def test_kinds_are_words() -> None:
    assert [kind(value) for value in (None, "x", [], 1)] == ["nothing", "a text", "a list", "int"]
