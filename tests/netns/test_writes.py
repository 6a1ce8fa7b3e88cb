"""What a whole agent writes from its start to its end: the files of the specification and not one more, no bytecode.

That it also works where it could not write anything else: tests/netns/test_container.py.
"""

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.agent import World
from tests.fakes.envoy import wait_for

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parent.parent.parent
# Runs the agent and notes, a line each, whatever Python is asked to make, write, rename or bind by a name.
NOTING = """
import os, sys
notes = os.open("notes.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MAKING = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "os.utime"}
def note(event, args):
    if event == "open":
        path = args[0] if args[2] & WRITING else None
    elif event == "socket.bind":
        path = args[1] if isinstance(args[1], (str, bytes)) else None
    else:
        path = args[0] if event in MAKING else None
    if isinstance(path, (str, bytes, os.PathLike)):
        os.write(notes, event.encode() + b" " + os.path.abspath(os.fsencode(path)) + b"\\n")
sys.addaudithook(note)
sys.argv = ["pilot-agent", *sys.argv[1:]]
from agent.__main__ import main
sys.exit(main())
"""


class Noting(World):
    """Its agent runs from a copy of the source tree that is writable and has no bytecode yet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tree = folder / "tree"
        for name in ("agent", "init"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.environ |= {"PYTHONPATH": str(self.tree)}

    def wrap(self, command: list[str]) -> list[str]:
        return [command[0], "-c", NOTING, *command[3:]]

    def notes(self) -> set[str]:
        """What was written under a name of its own or a temporary one, relative to the working directory."""
        paths = [line.partition(" ")[2] for line in (self.folder / "notes.log").read_text().splitlines()]
        return {re.sub(r"\.tmp(\.\d+)?$", "", path.removeprefix(f"{self.folder}/")) for path in paths}

    def files(self) -> set[str]:
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*")}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noting]:
    with Noting(tmp_path_factory.mktemp("w")) as made:
        yield made


def whole_life(world: Noting, **environ: str) -> None:
    world.start(OUTPUT_CERTS="out", ISTIO_META_DNS_CAPTURE="true", **environ)
    wait_for(lambda: (world.folder / "out/root-cert.pem").exists(), 20)
    wait_for(lambda: world.http(15020, "/stats/prometheus")[0] == 200, 20)
    status, out, err = world.end(signal.SIGTERM)
    assert (status, err) == (0, ""), out
    assert "Traceback" not in out


SPECIFIED = {  # spec/agent.md 1.6, and the directories they are in
    "etc/istio/proxy",
    "etc/istio/proxy/XDS",
    "etc/istio/proxy/envoy-rev.json",
    "etc/istio/proxy/grpc-bootstrap.json",
    "out",
    "out/cert-chain.pem",
    "out/key.pem",
    "out/root-cert.pem",
    "var/run/secrets/workload-spiffe-uds",
    "var/run/secrets/workload-spiffe-uds/socket",
}
OURS = {"notes.log", "requests.log", "starts.log"}  # this test's and the stand-in Envoy's
GONE = {"etc/istio/proxy/XDS", "etc/istio/proxy/envoy-rev.json", "var/run/secrets/workload-spiffe-uds/socket"}


def test_nothing_but_what_the_specification_names(world: Noting) -> None:
    before = world.files()
    whole_life(world, PYTHONDONTWRITEBYTECODE="1")
    assert world.notes() == SPECIFIED
    assert world.files() - before - OURS == SPECIFIED - GONE - {"etc/istio/proxy"}


def test_bytecode_is_what_the_variable_prevents(world: Noting) -> None:
    """The agent does run from the copy: without the variable Python keeps bytecode beside it, and only there."""
    before = world.files()
    whole_life(world)
    written = {name for name in world.files() - before if "__pycache__" in name}
    assert any(name.endswith(".pyc") for name in written)
    assert all(name.startswith("tree/") for name in written)
    assert {name for name in world.notes() if "__pycache__" not in name} == SPECIFIED
