"""The kernel kills Envoy for want of memory: a real memory cgroup, a real kill, told apart from anybody else's."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.agent import World
from tests.fakes.envoy import wait_for
from tests.fakes.memory import MemoryGroup

pytestmark = pytest.mark.root

LIMIT = 200 << 20  # bytes: several agents, so that the stand-in is by far the largest when the kernel looks for one


class Limited(World):
    """The agent and all that it starts live in one memory cgroup, as in a container."""

    group: MemoryGroup

    def wrap(self, command: list[str]) -> list[str]:
        return self.group.wrap(command)

    def crash(self, number: int) -> dict[str, Any]:
        """The flight recorder's entry of a crash."""

        def found() -> list[dict[str, Any]]:
            events = json.loads(self.http(15020, "/debug/events")[1])["events"]
            return [event for event in events if event["kind"] == "crashed"][number : number + 1]

        (event,) = wait_for(found)
        return dict(event["fields"], message=event["message"])


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    with MemoryGroup(LIMIT) as group, Limited(tmp_path_factory.mktemp("m")) as made:
        made.group = group
        yield made
    assert not group.path.exists()


def eat(world: World) -> None:
    assert world.http(15000, "/fake/eat", "POST")[0] == 0  # it is dead before it has eaten up


def test_an_envoy_killed_for_want_of_memory_is_said_and_restarted(world: Limited) -> None:
    process = world.start()
    world.wait_ready()
    eat(world)
    wait_for(lambda: len(world.envoy_starts()) == 2)
    world.wait_ready()
    event = world.crash(0)
    assert (event["status"], event["kind_of_exit"]) == (-signal.SIGKILL, "oom")
    assert "out of memory (raise the container's memory limit)" in event["message"]
    page = world.http(15020, "/metrics")[1]
    assert "istio_agent_envoy_crashes_total 1\n" in page
    assert "istio_agent_envoy_restarts_total 1\n" in page

    world.kill_envoy()  # somebody else's SIGKILL: the same signal, and nothing new was counted
    wait_for(lambda: len(world.envoy_starts()) == 3)
    world.wait_ready()
    assert world.crash(1)["kind_of_exit"] == "signal"
    assert process.poll() is None
    status, out, err = world.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    assert out.count("Envoy was killed by SIGKILL: out of memory (raise the container's memory limit) after ") == 1
    assert out.count("nothing was counted in this container") == 1


def test_the_cause_is_in_the_last_sentence_too(world: Limited) -> None:
    world.start(ENVOY_RESTARTS="0")
    world.wait_ready()
    eat(world)
    status, _, err = world.end()
    assert status == 1
    assert err == (
        "Error: Envoy was killed by SIGKILL: out of memory (raise the container's memory limit), "
        "and ENVOY_RESTARTS=0 asks to end with it.\n"
    )
