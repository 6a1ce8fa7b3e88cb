"""Every way to end has its words."""

import pytest

from agent.envoy.exits import Exit, after_push, signal_name


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
        (Exit(-11, suspect=" 1 s later"), "signal", "was killed by SIGSEGV 1 s later"),
        (Exit(1, suspect=" 1 s later"), "exit", "exited with status 1 1 s later"),
    ],
)
def test_words(how: Exit, kind: str, phrase: str) -> None:
    assert (how.kind, how.phrase) == (kind, phrase)


def test_a_crash_right_after_new_configuration_names_it() -> None:
    listener = "type.googleapis.com/envoy.config.listener.v3.Listener"
    said = after_push(0.42, listener, "2026-11/7")
    assert said == " 0.4 s after it was sent new configuration (Listener, version 2026-11/7)"
    assert after_push(5.0, listener, "") == " 5.0 s after it was sent new configuration (Listener)"
    assert after_push(5.1, listener, "1") == ""


def test_only_status_zero_is_clean() -> None:
    assert Exit(0).clean
    assert not Exit(1).clean
    assert not Exit(-15).clean
    assert not Exit(0, error="not started").clean


def test_signal_names() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(99) == "signal 99"
