"""The guard on a real kernel, rules of both backends, with and without rights."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = [sys.executable, "-m", "tests.netns.guard_scenarios"]


def run(*command: str) -> None:
    done = subprocess.run(["unshare", "-n", *command], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    "scenario",
    [
        "notified_nft",
        "notified_native",
        "crash_native",
        "crash_legacy",
        "period_legacy",
        "detect",
        "probing",
        "unprivileged",
        "notifications",
    ],
)
def test_scenario(scenario: str) -> None:
    run(*SCENARIO, scenario)


@pytest.mark.root
def test_an_ambient_capability_is_enough() -> None:
    python = " ".join(SCENARIO)
    # The interpreter may live where only root can read.
    caps = "+net_admin,+dac_read_search"
    as_proxy = f"setpriv --reuid=1337 --regid=1337 --clear-groups --inh-caps={caps} --ambient-caps={caps}"
    script = f"{python} network_only && {python} reapply && exec {as_proxy} {python} ambient"
    run("sh", "-ec", script)
