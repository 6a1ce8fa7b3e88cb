from agent.errors import AttemptError, ConfigError, FatalError


def test_exit_codes_are_those_of_istios_agent() -> None:
    assert (ConfigError("x").exit_code, FatalError("x").exit_code) == (255, 1)


def test_a_failed_attempt_carries_a_label_for_metrics() -> None:
    error = AttemptError("bad_chain", "the CA answered with an empty chain")
    assert (error.reason, str(error)) == ("bad_chain", "the CA answered with an empty chain")
