import json
from pathlib import Path

import pytest

from init import config as configuration
from init.__main__ import describe, effective, istio_iptables, run
from init.plan import plan
from init.settings import InitConfig, Ranges

ARGS = ["-p", "15001", "-u", "1337", "-i", "*", "-x", "", "-b", "*", "-d", "15020", "--log_output_level=default:info"]


@pytest.fixture(autouse=True)
def _on_a_machine_with_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    host = configuration.Host(configuration.real_host().file, lambda: ["10.0.0.1"])
    monkeypatch.setattr(configuration, "real_host", lambda: host)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--no-such-flag"], 255),
        (["plan", "--no-such-flag"], 255),
        (["-z", "abc"], 1),
        (["verify", "-z", "abc"], 1),
        (["--help"], 0),
        (["apply", "-h"], 0),
        ([*ARGS, "--skip-rule-apply"], 0),
    ],
)
def test_exit_codes(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv, {}) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if code:
        assert err.count("\n") == 1


def test_a_bad_variable_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert istio_iptables(ARGS, {"DRY_RUN": "yes"}) == 1
    assert "DRY_RUN" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_it_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules"
    file.write_text("something longer than the plan\n" * 500)
    assert istio_iptables([*ARGS, "-n"], {"DRY_RUN_FILE_PATH": str(file)}) == 0
    printed = capsys.readouterr().out
    assert "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n" in printed
    assert file.read_text() == printed
    assert run(["plan", *ARGS], {}) == 0
    assert capsys.readouterr().out == printed


def test_a_dry_run_into_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert istio_iptables([*ARGS, "-n"], {"DRY_RUN_FILE_PATH": str(tmp_path / "a" / "b")}) == 1
    assert "DRY_RUN_FILE_PATH" in capsys.readouterr().err


def test_the_settings_in_force_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    istio_iptables([*ARGS, "--skip-rule-apply", "--log_as_json"], {"INVALID_DROP": "false", "HOME": "/secret"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"level": "info", "scope": "iptables", "msg": "INBOUND_PORTS_EXCLUDE=15020"} in lines
    assert {"level": "info", "scope": "iptables", "msg": "INVALID_DROP=false"} in lines  # as it came
    assert not any("/secret" in line["msg"] for line in lines)
    istio_iptables([*ARGS, "--skip-rule-apply", "--log_output_level=none"], {})
    assert capsys.readouterr().err == ""


def test_what_is_described() -> None:
    config = InitConfig(inbound_ports=("*",), include=Ranges(all=True), tproxy=True, v6=True)
    text = describe(plan(config))
    assert "# ip -6 rule add fwmark 1337 lookup 133\n" in text
    assert "# ip -6 addr add ::6/128 dev lo\n" in text
    assert ("OUTBOUND_IPRANGES_INCLUDE", "*") in effective(config)
