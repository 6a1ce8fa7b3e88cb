"""A stand-in for Envoy: a real process that answers the admin endpoints and does what the test orders."""

import http.client
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from agent.config import EnvoyConfig
from agent.envoy.launch import Envoy, spawn

PROGRAM = Path(__file__).with_name("envoy_program.py")
LIVE = {
    "cluster_manager.cds.update_success": 1,
    "cluster_manager.cds.update_rejected": 0,
    "listener_manager.lds.update_success": 1,
    "listener_manager.lds.update_rejected": 0,
    "listener_manager.workers_started": 1,
    "server.state": 0,
}


def stats(**changes: int | None) -> str:
    """A body of /stats; None leaves a line out; `cds` and `lds` are the numbers of accepted updates."""
    short = {
        "cds": "cluster_manager.cds.update_success",
        "cds_rejected": "cluster_manager.cds.update_rejected",
        "lds": "listener_manager.lds.update_success",
        "lds_rejected": "listener_manager.lds.update_rejected",
        "state": "server.state",
        "workers": "listener_manager.workers_started",
    }
    rows = {**LIVE, **{short[name]: value for name, value in changes.items()}}
    return "".join(f"{name}: {value}\n" for name, value in rows.items() if value is not None)


def alive(pid: int) -> bool:
    """The process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was looked at
        return False


def wait_for(what: Callable[[], Any], timeout: float = 10.0) -> Any:
    """Poll until `what()` is true and return it; blocking, so not for the event loop's thread."""
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.005)
    return found


class FakeEnvoy:
    """One place with one admin port, where a fake Envoy may run again and again. A context manager."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        # Bound but not listening: the port is ours, and children may bind it too because all say SO_REUSEADDR.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.port: int = self._reservation.getsockname()[1]
        self.config = EnvoyConfig(
            **{
                "enabled": True,
                "binary": sys.executable,
                "config_dir": str(folder),
                "custom_config_file": "",
                "admin_port": self.port,
                "admin_host": "127.0.0.1",
                "status_port": 15021,
                "stats_port": 15090,
                "termination_drain_duration": 0.2,
                "minimum_drain_duration": 0.1,
                **config,
            }
        )
        self.argv = ["-I", "-S", str(PROGRAM), str(folder), "127.0.0.1", str(self.port)]
        self.set_stats(stats())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reservation.close()

    def spawn(self) -> Envoy:
        return spawn(self.config, self.argv, {"PATH": os.defpath})

    def set_stats(self, text: str) -> None:
        new = self.folder / "stats.new"
        new.write_text(text)
        new.replace(self.folder / "stats.txt")

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def starts(self) -> list[int]:
        """The pid of every start, once its admin port answers."""
        return [int(line.split()[0]) for line in self._lines("starts.log")]

    def requests(self) -> list[str]:
        """`METHOD target` of every admin request."""
        return self._lines("requests.log")

    def drains(self) -> list[str]:
        return [line for line in self.requests() if "drain_listeners" in line]

    def order(self, what: str) -> str:
        """Make the running process do something, see envoy_program.py; returns its answer, "" if it ended instead."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", f"/fake/{what}")
            return connection.getresponse().read().decode()
        except (http.client.HTTPException, ConnectionError):
            return ""
        finally:
            connection.close()
