import asyncio
import socket

import pytest

from agent.config import HealthConfig
from agent.events import Recorder
from agent.health.monitor import HealthMonitor
from agent.model import Readiness

TCP = HealthConfig("tcp", "127.0.0.1", 1, period=0.01)


def monitor(config, envoy=None, report=lambda error: None, recorder=None):
    return HealthMonitor(config, report, envoy, {"PATH": "/usr/bin:/bin"}, recorder or Recorder())


def listening(**fields):
    server = socket.create_server(("127.0.0.1", 0))
    return server, HealthConfig("tcp", "127.0.0.1", server.getsockname()[1], **{"period": 0.01, **fields})


def test_tcp():
    server, config = listening()
    assert asyncio.run(monitor(config).check()) == ""
    server.close()
    said = asyncio.run(monitor(config).check())
    assert said == f"127.0.0.1:{config.port} cannot be probed: Connection refused"


def test_a_command_must_not_run_while_envoy_is_not_ready(tmp_path):
    async def starting():
        return Readiness(False, "starting")

    command = HealthConfig("exec", "", 0, command=("touch", str(tmp_path / "ran")))
    assert asyncio.run(monitor(command, starting).check()) == "Envoy is not ready: starting"
    assert not (tmp_path / "ran").exists()


def test_a_command_that_hangs_is_ended():
    command = HealthConfig("exec", "", 0, command=("sleep", "60"), timeout=0.05)
    assert asyncio.run(monitor(command).check()) == "command timeout exceeded: sleep 60"


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_somebody_who_never_answers(kind):
    server, config = listening(timeout=0.05)
    with server:
        config = HealthConfig(kind, config.host, config.port, timeout=0.05)
        said = asyncio.run(monitor(config).check())
    assert "did not answer within" in said or "DEADLINE_EXCEEDED" in said


def test_a_program_that_cannot_be_run():
    said = asyncio.run(monitor(HealthConfig("exec", "", 0, command=("/no/such",))).check())
    assert said == "the command /no/such cannot be probed: No such file or directory"


def test_changes_are_reported_once_each_and_recorded():
    said, recorder = [], Recorder()
    server, config = listening(failure_threshold=2)

    async def go():
        watched = monitor(config, report=said.append, recorder=recorder)
        task = asyncio.create_task(watched.run())
        async with asyncio.timeout(10):
            while not said:
                await asyncio.sleep(0.005)
            server.close()
            while len(said) < 2:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(go())
    assert said == ["", f"127.0.0.1:{config.port} cannot be probed: Connection refused"]
    assert [event.kind for event in recorder.events()] == ["healthy", "unhealthy"]


def test_a_probe_that_takes_long_skips_the_times_it_missed():
    class Slow(HealthMonitor):
        runs: list[float]

        async def check(self):
            self.runs.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.25 if len(self.runs) == 1 else 0)
            return ""

    async def go():
        slow = Slow(HealthConfig("tcp", "", 0, period=0.1), lambda error: None, None, {}, Recorder())
        slow.runs = []
        task = asyncio.create_task(slow.run())
        async with asyncio.timeout(10):
            while len(slow.runs) < 3:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        return [round((at - slow.runs[0]) / 0.1, 1) for at in slow.runs[:3]]

    # On the grid (a busy machine may be late, never early), and those at 1 and 2 are not made up for.
    first, second, third = asyncio.run(go())
    assert first == 0
    assert second >= 3
    assert third - second > 0.3
