import pytest

from agent.errors import AttemptError, ConfigError, FatalError


def test_exit_codes_are_those_of_istios_agent() -> None:
    assert (ConfigError("x").exit_code, FatalError("x").exit_code) == (255, 1)


def test_a_failed_attempt_carries_a_label_for_metrics() -> None:
    error = AttemptError("bad_chain", "the CA answered with an empty chain")
    assert (error.reason, str(error)) == ("bad_chain", "the CA answered with an empty chain")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain: {'a'} é", "plain: {'a'} é"),
        ("two\nlines\tand \udcff\x1b[1m", r"two\nlines\tand \udcff\x1b[1m"),
        ("a" * 1500 + "b" * 1500, "a" * 1000 + " ... " + "b" * 1000),
    ],
)
def test_a_sentence_is_one_line(text: str, shown: str) -> None:
    assert str(FatalError(text)) == shown
