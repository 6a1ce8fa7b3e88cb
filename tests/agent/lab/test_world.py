"""What ends a lab from outside, and what it refuses; real labs: tests/netns/test_lab_net.py."""

import os
import signal
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.lab.demo import MESH
from agent.lab.options import Options
from agent.lab.world import Lab, interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_bad_mesh_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Lab(Options("services: 7", tmp_path / "logs", Path("/bin/true")))
    assert not (tmp_path / "logs").exists()


def test_certificates_live_as_long_as_the_shorter_limit_says(tmp_path: Path) -> None:
    assert Lab(Options(MESH, tmp_path, Path("/bin/true"), "20s")).seconds_of_certificates() == 20.0
    capped = MESH + "certificates: {ttl: 5s}\n"
    assert Lab(Options(capped, tmp_path, Path("/bin/true"), "20s")).seconds_of_certificates() == 5.0
