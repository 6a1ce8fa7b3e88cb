"""What `version` prints for people and for programs."""

import json

import pytest
import yaml

from agent.cli.version import run
from agent.errors import ConfigError
from agent.version import VERSION


def out(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(argv, {}) == 0
    return capsys.readouterr().out


def test_short_and_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "-s") == f"client version: {VERSION}\n"
    text = out(capsys)
    assert text.startswith(f"client version: {VERSION}")
    assert text.count("\n") == 1


def test_structured(capsys: pytest.CaptureFixture[str]) -> None:
    as_json = json.loads(out(capsys, "-o", "json"))
    assert as_json["clientVersion"]["version"] == VERSION
    assert {"revision", "status", "tag"} <= set(as_json["clientVersion"])
    assert yaml.safe_load(out(capsys, "--output=yaml")) == as_json


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match="use json or yaml"):
        run(["-o", "xml"], {})
