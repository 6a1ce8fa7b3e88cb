"""Every way to end has its words."""

import pytest

from agent.envoy.exits import Exit, signal_name


@pytest.mark.parametrize(
    ("how", "kind", "phrase"),
    [
        (Exit(0), "exit", "exited with status 0"),
        (Exit(139), "exit", "exited with status 139"),
        (Exit(-11), "signal", "was killed by SIGSEGV"),
        (Exit(-6, oom=True), "signal", "was killed by SIGABRT"),
        (Exit(-9, oom=True), "oom", "was killed by SIGKILL: out of memory (raise the container's memory limit)"),
        (
            Exit(-9),
            "signal",
            "was killed by SIGKILL (possibly out of memory on the node; nothing was counted in this container)",
        ),
        (Exit(-63), "signal", "was killed by signal 63"),
        (Exit(-1, error="it is gone"), "spawn", "could not be started: it is gone"),
    ],
)
def test_words(how: Exit, kind: str, phrase: str) -> None:
    assert (how.kind, how.phrase) == (kind, phrase)


def test_only_status_zero_is_clean() -> None:
    assert Exit(0).clean
    assert not Exit(1).clean
    assert not Exit(-15).clean
    assert not Exit(0, error="not started").clean


def test_signal_names() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(99) == "signal 99"
