"""The network of a lab: pods are network namespaces on a bridge that lives in a namespace of its own.

Nothing of it appears in the host's namespace: veth pairs are made from the bridge's side with the other end already
inside the pod. `rl<id>-net` is the node (10.77.0.1), `rl<id>-<pod>` are the pods.
"""

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.errors import FatalError
from agent.lab.janitor import NETNS, Janitor

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
BRIDGE = "br0"
GATEWAY, PREFIX = "10.77.0.1", 24
GATEWAY6, PREFIX6 = "fd77::1", 64
TIME_LIMIT = 15.0  # seconds for one command

_libc = ctypes.CDLL(None, use_errno=True)


def command(argv: Sequence[str], *, stdin: str | None = None, limit: float = TIME_LIMIT) -> str:
    """Run one command to its end; returns its output. Raises FatalError with one sentence."""
    line = " ".join(argv)
    try:
        done = subprocess.run(list(argv), input=stdin, capture_output=True, text=True, timeout=limit)
    except FileNotFoundError:
        raise FatalError(f"`{argv[0]}` is not installed (Debian: apt-get install iproute2 iptables)") from None
    except subprocess.TimeoutExpired:
        raise FatalError(f"`{line}` did not end within {limit:g} s") from None
    if done.returncode != 0:
        raise FatalError(f"`{line}` failed with status {done.returncode}: {' '.join(done.stderr.split())}")
    return done.stdout


def check_privileges() -> None:
    """Say in one sentence what is missing to build a lab here, as FatalError."""
    if os.geteuid() != 0:
        raise FatalError("the lab makes network namespaces and writes iptables rules: run it as root")
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("setpriv", "util-linux")):
        if shutil.which(tool) is None:
            raise FatalError(f"`{tool}` is not installed (Debian: apt-get install {package})")


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace of the lab. `port` is the bridge's end of its veth pair ("" for the bridge's own)."""

    name: str
    ip: str
    port: str = ""

    @property
    def path(self) -> Path:
        return NETNS / self.name

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` inside the namespace. Sockets that it opens stay there; other threads do not notice."""
        result: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _libc.setns(fd, CLONE_NEWNET) != 0:
                        raise FatalError(f"cannot enter namespace {self.name}: {os.strerror(ctypes.get_errno())}")
                finally:
                    os.close(fd)
                result.append(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller below
                failure.append(error)

        # A thread for every call: setns moves a thread, and a moved one must not be reused.
        thread = threading.Thread(target=body, name=f"in {self.name}", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]


class Network:
    """The bridge and what hangs on it. Removal is the janitor's work: every name is announced before it is used."""

    def __init__(self, lab_id: str, janitor: Janitor, *, ipv6: bool = False) -> None:
        self._id = lab_id
        self._janitor = janitor
        self._ipv6 = ipv6
        self.node = Namespace(f"rl{lab_id}-net", GATEWAY)
        self._count = 0

    def create(self) -> Namespace:
        """Make the node's namespace with the bridge in it."""
        self._make(self.node.name)
        addresses = [f"addr add {GATEWAY}/{PREFIX} dev {BRIDGE}"]
        if self._ipv6:
            addresses.append(f"addr add {GATEWAY6}/{PREFIX6} dev {BRIDGE} nodad")
        self._ip(
            self.node.name, f"link add {BRIDGE} type bridge", *addresses, f"link set {BRIDGE} up", "link set lo up"
        )
        return self.node

    def add(self, pod: str, ip: str, *, extra: Sequence[str] = ()) -> Namespace:
        """Make a pod's namespace with `eth0` on the bridge. `extra` are further addresses of it."""
        namespace = Namespace(f"rl{self._id}-{pod}", ip, f"veth{self._count}")
        self._count += 1
        self._make(namespace.name)
        self._ip(
            self.node.name,
            f"link add {namespace.port} type veth peer name eth0 netns {namespace.name}",
            f"link set {namespace.port} master {BRIDGE}",
            f"link set {namespace.port} up",
        )
        lines = ["link set lo up", "link set eth0 up"]
        lines += [f"addr add {address}/{PREFIX} dev eth0" for address in (ip, *extra)]
        lines.append(f"route add default via {GATEWAY}")
        if self._ipv6:
            lines.append(f"addr add fd77::{ip.rpartition('.')[2]}/{PREFIX6} dev eth0 nodad")
            lines.append(f"-6 route add default via {GATEWAY6}")
        self._ip(namespace.name, *lines)
        return namespace

    def _make(self, name: str) -> None:
        self._janitor.namespace(name)
        command(["ip", "netns", "add", name])

    def _ip(self, namespace: str, *lines: str) -> None:
        for line in lines:
            command(["ip", "-n", namespace, *line.split()])
