"""The agent as the first process of a container, asked to end while its start still waits for something."""

import os
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.agent import World
from tests.fakes.envoy import wait_for

pytestmark = pytest.mark.root

# No kernel of ours gives an interface the address 0.0.0.0 by itself, as some CNI plugins do for a moment.
NO_ADDRESS_YET = """
import sys
from agent.settings import netinfo
netinfo._scan = lambda excluded: ((), False)
from agent.__main__ import main
sys.argv[0] = "pilot-agent"
sys.exit(main())
"""


class First(World):
    prefix = ":;"
    program: tuple[str, ...] = ("-m", "agent")

    def wrap(self, command: list[str]) -> list[str]:
        command = [command[0], *self.program, *command[3:]]
        inside = f'{self.prefix} exec "$@"'
        return ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", inside, "sh", *command]

    def inner(self) -> int:
        """The agent as seen from here, once it is Python and has its handlers."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pid = int(wait_for(lambda: path.read_text().split())[0])

        def catches() -> bool:
            status = Path(f"/proc/{pid}/status").read_text()
            mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
            return bool(mask >> (signal.SIGTERM - 1) & 1)

        wait_for(catches)
        return pid

    def ended_by(self, number: signal.Signals) -> None:
        pid = self.inner()
        os.kill(pid, number)
        status, out, err = self.end()
        said = f"The agent was asked to end by {number.name} before it had started anything.\n"
        assert (status, out, err) == (0, "", said)
        assert self.envoy_starts() == []
        assert not (self.folder / "etc/istio/proxy/envoy-rev.json").exists()


@pytest.fixture
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    with First(tmp_path_factory.mktemp("f")) as made:
        yield made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_while_it_waits_for_its_address(first: First, number: signal.Signals) -> None:
    first.program = ("-c", NO_ADDRESS_YET)
    first.start()
    first.ended_by(number)


def test_while_it_resolves_a_name(first: First) -> None:
    def silent() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 53))
        return sock

    resolver = first.network.call(silent)
    first.keep(resolver)
    conf = first.folder / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n")
    first.prefix = f"mount --bind {shlex.quote(str(conf))} /etc/resolv.conf;"
    first.proxy_config["statsdUdpAddress"] = "statsd.example:8125"
    first.start()
    resolver.settimeout(20)
    assert resolver.recv(512)  # it waits for an answer now
    first.ended_by(signal.SIGTERM)
