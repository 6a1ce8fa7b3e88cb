import subprocess
import sys

import pytest

from agent.__main__ import COMMANDS, dispatch, split_command


@pytest.mark.parametrize(
    ("argv", "command", "rest"),
    [
        (["proxy", "sidecar"], "proxy", ["sidecar"]),
        (["--log_as_json", "proxy", "router"], "proxy", ["--log_as_json", "router"]),
        (["--log_output_level", "debug", "proxy"], "proxy", ["--log_output_level", "debug"]),
        (["--log_target=stderr", "exec", "--", "a"], "exec", ["--log_target=stderr", "--", "a"]),
        (["--version"], "version", []),
        (["help", "wait"], "help", ["wait"]),
        (["istio-iptables", "-x", ""], "istio-iptables", ["-x", ""]),
        ([], "help", []),
        (["--help"], "help", []),
        (["nosuch", "proxy"], "nosuch", []),
    ],
)
def test_the_first_word_is_the_command(argv: list[str], command: str, rest: list[str]) -> None:
    assert split_command(argv) == (command, rest)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("pilot-agent", ["help"], {}) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("pilot-agent", ["nosuch"], {}) == 255
    assert capsys.readouterr().err == 'Error: unknown command "nosuch" for "pilot-agent" (try `pilot-agent help`)\n'


def test_a_refused_configuration_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("pilot-agent", ["proxy", "gateway"], {}) == 255
    err = capsys.readouterr().err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("pilot-agent", [command, "--help"], {}) == 0
    assert len(capsys.readouterr().out) > 100


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("certs", "--json"),
        ("config", "--running"),
        ("events", "--component"),
        ("exec", "--quit-when"),
        ("log", "--for"),
        ("proxy", "--meshConfig"),
        ("quit", "--status-port"),
        ("request", "--debug-port"),
        ("version", "--short"),
        ("wait", "--periodMillis"),
        ("xds", "--json"),
    ],
)
def test_a_command_explains_its_flags(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("pilot-agent", [command, "x", "--help"], {}) == 0
    assert f" {flag}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["request", "wait", "version", "exec", "quit", "drain"])
def test_hooks_import_neither_grpc_nor_asyncio(command: str) -> None:
    code = f"import sys, agent.cli.{command}; print([m for m in ('grpc', 'asyncio', 'google') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m agent help | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_for_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch("pilot-agent", ["help", "wait"], {}) == 0
    assert "--periodMillis" in capsys.readouterr().out
