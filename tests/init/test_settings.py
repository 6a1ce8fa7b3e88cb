import pytest

from init.settings import InitConfig, Ranges


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="frozen"):
        InitConfig().proxy_port = 1  # type: ignore[misc]


def test_ranges_by_family() -> None:
    ranges = Ranges(v4=("10.0.0.0/8",), v6=("fd00::/8",))
    assert (ranges.of(4), ranges.of(6)) == (("10.0.0.0/8",), ("fd00::/8",))
