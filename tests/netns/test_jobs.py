"""Jobs: the wrapper beside a whole agent, and the calls that end or drain it."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fakes.agent import World
from tests.fakes.envoy import stats, wait_for

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("j")) as made:
        yield made


def remora(world: World, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "agent", *words]
    return world.network.call(
        lambda: subprocess.Popen(
            command, env=world.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=world.folder
        )
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_a_job_waits_for_the_proxy_and_takes_it_along(world: World) -> None:
    job = remora(world, "exec", "--", "sh", "-c", "echo working; exit 5")  # before its agent is even started
    world.start()
    assert finish(job) == (5, "working\n", "")
    assert world.end()[0] == 0  # nobody else ended it
    assert "drain_listeners" not in (world.folder / "requests.log").read_text()


def test_a_job_that_is_ended_by_a_signal(world: World) -> None:
    world.start()
    job = remora(world, "exec", "--", "sh", "-c", "echo up; exec sleep 60")
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    job.send_signal(signal.SIGTERM)
    assert finish(job)[0] == 128 + signal.SIGTERM
    assert world.end()[0] == 0


def test_quit(world: World) -> None:
    world.start()
    world.wait_ready()
    assert finish(remora(world, "quit")) == (0, "The agent ends.\n", "")
    assert world.end()[0] == 0
    status, _, err = finish(remora(world, "quit"))
    assert status == 1
    assert err.startswith("Error: the agent was not reached: ")
    assert err.count("\n") == 1


def test_drain_then_termination(world: World) -> None:
    world.start()
    world.wait_ready()
    assert finish(remora(world, "drain")) == (0, "Envoy drains.\n", "")
    drains = [line for line in (world.folder / "requests.log").read_text().splitlines() if "drain" in line]
    assert drains == ["POST /drain_listeners?inboundonly&graceful&skip_exit"]
    assert world.http(15020, "/healthz/ready")[0] == 200
    assert world.end(signal.SIGTERM)[0] == 0
    assert (world.folder / "requests.log").read_text().count("drain_listeners") == 1


def test_a_job_whose_proxy_gets_ready_late_fails_and_is_run_again(world: World) -> None:
    """restartPolicy OnFailure: the first container fails, its agent stays, the next container runs the command."""
    (world.folder / "stats.txt").write_text(stats(cds=0))
    world.start()
    wait_for(lambda: world.http(15020, "/healthz/ready")[0] == 503, 20)
    words = ("exec", "--timeout=500ms", "--quit-when=success", "--", "sh", "-c", "echo ran; test -e again")
    status, out, err = finish(remora(world, *words))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.endswith("; the command was not run, the agent is left alone\n")
    (world.folder / "stats.txt").write_text(stats())
    words = (words[0], "--timeout=20s", *words[2:])
    assert finish(remora(world, *words)) == (1, "ran\n", "")  # the command itself has failed
    assert world.http(15020, "/healthz/ready")[0] == 200
    (world.folder / "again").touch()
    assert finish(remora(world, *words)) == (0, "ran\n", "")
    assert world.end()[0] == 0
