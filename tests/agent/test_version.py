"""The version that we claim is one that a control plane can compare."""

import re
import tomllib
from pathlib import Path

from agent.version import ISTIO_VERSION, VERSION


def test_versions() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION
    assert re.fullmatch(r"1\.\d+\.\d+", ISTIO_VERSION)
