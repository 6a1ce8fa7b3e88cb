"""Places that refuse to be written: a full disk, a read-only one, a taken file; and what is left behind then."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.agent import World
from tests.fakes.envoy import alive, wait_for

pytestmark = pytest.mark.root

CONFIG_DIR = "etc/istio/proxy"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("b")) as made:
        yield made


def run(world: World, before: str, *after: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """The agent in a mount namespace of its own, after some shell commands; `after` run when it has ended."""
    env = {"PROXY_CONFIG": json.dumps(world.proxy_config), **world.environ, **environ}
    agent = f"timeout 20 {sys.executable} -m agent proxy sidecar || echo status $?"
    script = "; ".join([before, agent, *after])
    return world.network.call(
        lambda: subprocess.run(
            ["unshare", "-m", "sh", "-ec", script],
            cwd=world.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    )


FULL = f"mount -t tmpfs -o size=8k none {CONFIG_DIR}; head -c 8192 /dev/zero >{CONFIG_DIR}/ballast || true"
READ_ONLY = f"mount -t tmpfs -o ro none {CONFIG_DIR}"


@pytest.mark.parametrize(
    ("mount", "environ", "words", "left"),
    [
        (FULL, {}, "No space left on device", ["ballast"]),
        (READ_ONLY, {}, "Read-only file system", []),
        (FULL, {"DISABLE_ENVOY": "true"}, "GRPC_XDS_BOOTSTRAP", ["ballast"]),
        (READ_ONLY, {"DISABLE_ENVOY": "true"}, "Read-only file system", []),
    ],
)
def test_one_sentence_and_nothing_left(
    world: World, mount: str, environ: dict[str, str], words: str, left: list[str]
) -> None:
    done = run(world, mount, f"ls -A {CONFIG_DIR}", **environ)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr
    assert done.stdout.splitlines()[-1 - len(left) :] == ["status 1", *left]
    assert not any(alive(pid) for pid in world.envoy_starts())


def test_a_log_file_that_cannot_be_written(world: World) -> None:
    world.start("sidecar", "--log_target", "nosuch/log")
    status, _, err = world.end()
    assert (status, err.count("\n")) == (255, 1)
    assert "--log_target nosuch/log" in err


def test_levels_change_while_it_runs_and_without_envoy_grpc_applications_are_served(world: World) -> None:
    world.start("sidecar", "--log_output_level=default:warn", DISABLE_ENVOY="true", OUTPUT_CERTS="out")
    world.wait_ready()
    folder = world.folder
    assert {p.name for p in (folder / "out").iterdir()} == {"key.pem", "cert-chain.pem", "root-cert.pem"}
    bootstrap = json.loads((folder / CONFIG_DIR / "grpc-bootstrap.json").read_text())
    assert bootstrap["certificate_providers"]["default"]["config"]["private_key_file"] == "out/key.pem"
    assert not (folder / "var/run/secrets/workload-spiffe-uds/socket").exists()
    assert world.envoy_starts() == []

    os.rename(folder / "out/key.pem", folder / "key.pem")
    assert world.http(15020, "/healthz/ready")[0] == 503
    os.rename(folder / "key.pem", folder / "out/key.pem")
    wait_for(lambda: world.http(15020, "/healthz/ready")[0] == 200, 5)

    command = [sys.executable, "-m", "agent", "log", "default:debug", "--for", "1m"]
    done = world.network.call(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    assert json.loads(done.stdout)["levels"]["default"] == "debug"
    status, out, _ = world.end(signal.SIGTERM)
    assert status == 0
    assert "Log levels are default:debug for 60 s." in out


def test_config_check_says_what_the_start_would(world: World, tmp_path: Path) -> None:
    world.proxy_config["binaryPath"] = "./nosuch"
    env = {"PROXY_CONFIG": json.dumps(world.proxy_config), **world.environ}
    command = [sys.executable, "-m", "agent", "config", "check", "sidecar"]
    done = subprocess.run(command, cwd=world.folder, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        255,
        "Error: the Envoy binary ./nosuch does not exist: set binaryPath in the proxy config\n",
    )
