from init.errors import InitError, UsageError, ValidationError


def test_exit_codes_are_those_that_repair_controllers_know() -> None:
    assert (InitError.exit_code, ValidationError.exit_code, UsageError.exit_code) == (1, 126, 255)
    assert issubclass(UsageError, InitError)
    assert issubclass(ValidationError, InitError)
