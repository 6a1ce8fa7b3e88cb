"""`config` beside a whole agent: what it runs with, and which ports it has."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fakes.agent import World

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("cfg")) as made:
        yield made


def config(world: World, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command in the agent's network, directory and environment."""
    env = {"PROXY_CONFIG": json.dumps(world.proxy_config), **world.environ}
    command = [sys.executable, "-m", "agent", "config", *words]
    return world.network.call(
        lambda: subprocess.run(command, cwd=world.folder, env=env, capture_output=True, text=True, check=False)
    )


def test_the_running_agent_tells_what_it_runs_with(world: World) -> None:
    world.proxy_config["tracing"] = {"lightstep": {"address": "l:1", "accessToken": "hush"}}
    before = config(world, "check")
    assert (before.returncode, before.stdout) == (0, "The configuration is usable.\n"), before.stderr
    world.start("sidecar", "--proxyLogLevel=info", XDS_HEADER_KEY="hush", LOG_REPEATS="7")
    world.wait_ready()
    done = config(world, "show", "--running", "--json")
    rows = {(row["group"], row["name"]): (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert rows["flag", "--proxyLogLevel"] == ("info", "flag")
    assert rows["environment", "LOG_REPEATS"] == (7, "environment")
    assert rows["environment", "XDS_HEADER_KEY"] == ("(redacted)", "environment")
    assert rows["proxy config", "statusPort"] == (15020, "default")
    assert rows["proxy config", "binaryPath"] == (str(world.envoy), "PROXY_CONFIG")
    assert "hush" not in done.stdout
    # The same question put to this process, whose flags and environment differ.
    other = {(row["group"], row["name"]): row["value"] for row in json.loads(config(world, "show", "--json").stdout)}
    assert other["environment", "LOG_REPEATS"] == 20
    assert ("environment", "XDS_HEADER_KEY") not in other

    taken = config(world, "check")
    assert taken.returncode == 255
    assert "the status port (statusPort) cannot be tcp 15020: Address already in use" in taken.stderr
    assert "Envoy's admin port (proxyAdminPort) cannot be tcp 15000: Address already in use" in taken.stderr
    assert config(world, "check", "--running").returncode == 0
    assert world.end(signal.SIGTERM)[0] == 0
    gone = config(world, "show", "--running")
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert gone.stderr.startswith("Error: the agent was not reached: ")


def test_others_do_not_see_the_settings(world: World) -> None:
    world.start()
    world.wait_ready()
    world.network.call(lambda: subprocess.run(["ip", "addr", "add", "10.77.0.2/32", "dev", "lo"], check=True))
    code = "import http.client as h; c = h.HTTPConnection('10.77.0.2', 15020, source_address=('10.77.0.2', 0));"
    code += " c.request('GET', '/debug/config'); print(c.getresponse().status)"
    done = world.network.call(
        lambda: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    )
    assert done.stdout == "403\n"
