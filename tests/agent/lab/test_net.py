"""Commands that fail, hang or are missing: one sentence each. The networks themselves: tests/netns/test_lab_net.py."""

import os

import pytest

from agent.errors import FatalError
from agent.lab import net
from agent.lab.net import Namespace, check_privileges, command


def test_a_command_returns_its_output() -> None:
    assert command(["cat"], stdin="text") == "text"


def test_a_failing_command_is_one_sentence() -> None:
    with pytest.raises(FatalError, match=r"^`sh -c .*` failed with status 3: bad news$"):
        command(["sh", "-c", "echo bad >&2; echo news >&2; exit 3"])


def test_a_hanging_command_is_ended() -> None:
    with pytest.raises(FatalError, match=r"did not end within 0\.1 s"):
        command(["sleep", "30"], limit=0.1)


def test_a_missing_command_is_named() -> None:
    with pytest.raises(FatalError, match="not installed"):
        command(["no-such-command-anywhere"])


def test_somebody_else_than_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(FatalError, match="root"):
        check_privileges()


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(net.shutil, "which", lambda name: None)
    with pytest.raises(FatalError, match="iproute2"):
        check_privileges()


def test_a_namespace_that_is_gone_cannot_be_entered() -> None:
    with pytest.raises(FileNotFoundError):
        Namespace("rlnone-at-all", "10.77.0.9").call(lambda: None)
