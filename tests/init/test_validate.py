import pytest

from init.errors import ValidationError
from init.settings import InitConfig
from init.validate import covers_passthrough, validate


@pytest.mark.parametrize(
    ("loopback", "covers"), [("127.0.0.1/32", False), ("127.0.0.0/8", True), ("127.0.0.0/29", True)]
)
def test_a_wide_loopback_range_leaves_nothing_to_probe(loopback: str, covers: bool) -> None:
    assert covers_passthrough(loopback) == covers


def test_no_time_is_no_success() -> None:
    with pytest.raises(ValidationError) as e:
        validate(InitConfig(probe_timeout=0))
    assert e.value.exit_code == 126
    assert "\n" not in str(e.value)
