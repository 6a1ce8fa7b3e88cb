"""Completion scripts, tried in the shells that are there."""

import shutil
import subprocess

import pytest

from agent.__main__ import COMMANDS
from agent.cli.completion import run
from agent.errors import ConfigError


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run([shell], {}) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("remora-agent req", ["request"]),
        ("remora-agent request --debug", ["--debug-port"]),
        ("remora-agent config sh", ["show"]),
        ("remora-agent proxy rou", ["router"]),
        ("remora-agent completion f", ["fish"]),
        ("remora-agent help exe", ["exec"]),
        ("remora-agent nosuch x", []),
    ],
)
def test_bash_completes(words: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = script("bash", capsys)
    count = len(words.split()) - 1
    text += f'COMP_WORDS=({words}); COMP_CWORD={count}; _remora_agent; echo "${{COMPREPLY[@]}}"\n'
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert all(name in text for name in COMMANDS)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("argv", [[], ["tcsh"], ["bash", "zsh"]])
def test_other_shells_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="bash, zsh, fish"):
        run(argv, {})
