"""One agent process in a network and a working directory of its own, with a CA and a stand-in Envoy beside it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.fakes.ca import SERVER_NAME, FakeCa, Root
from tests.fakes.envoy import PROGRAM, stats, wait_for
from tests.fakes.netns import Namespace

CHECKOUT = str(Path(__file__).parents[2])  # what is tested, wherever the installed package comes from


class World:
    """A context manager; `start` runs the agent and may be called again after it has ended."""

    def __init__(self, folder: Path, *, names: tuple[str, ...] = (SERVER_NAME,)) -> None:
        self.folder = folder
        self.network = Namespace()
        self.root = Root()
        self.ca = FakeCa(self.root, names=names)
        self.process: subprocess.Popen[str] | None = None
        self._kept: list[socket.socket] = []
        self.network.call(self.ca.start)
        for name in ("var/run/secrets/istio", "var/run/secrets/tokens", "etc/istio/proxy"):
            (folder / name).mkdir(parents=True)
        self.root_file = folder / "var/run/secrets/istio/root-cert.pem"
        self.root_file.write_bytes(self.root.pem)
        self.token = folder / "var/run/secrets/tokens/istio-token"
        self.token.write_text("token-1")
        (folder / "stats.txt").write_text(stats())
        self.envoy = self.script("envoy", f'exec {sys.executable} -I -S {PROGRAM} {folder} 127.0.0.1 15000 "$@"')
        self.proxy_config: dict[str, Any] = {
            "discoveryAddress": f"localhost:{self.ca.port}",
            "binaryPath": str(self.envoy),
            "terminationDrainDuration": "0.2s",
        }
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": CHECKOUT,
            "POD_NAME": "app-1",
            "POD_NAMESPACE": "demo",
            "SERVICE_ACCOUNT": "app",
            "INSTANCE_IP": "10.77.0.2",
            "TRUST_DOMAIN": "cluster.local",
            "CLOUD_PLATFORM": "none",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=10)
        for kept in self._kept:
            kept.close()
        self.ca.stop()
        self.network.close()

    def keep(self, taken: socket.socket) -> None:
        """Hold a port of this network until the end."""
        self._kept.append(taken)

    def script(self, name: str, line: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return path

    def start(self, *words: str, **environ: str) -> "subprocess.Popen[str]":
        """`agent proxy WORDS`; keyword arguments are environment variables."""
        full = {"PROXY_CONFIG": json.dumps(self.proxy_config), **self.environ, **environ}
        command = self.wrap([sys.executable, "-m", "agent", "proxy", *(words or ("sidecar",))])
        self.process = self.network.call(
            lambda: subprocess.Popen(
                command, cwd=self.folder, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return self.process

    def wrap(self, command: list[str]) -> list[str]:
        """The command that starts the agent; for a world that puts something around it."""
        return command

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """Wait for the end (after a signal, if given): status, stdout, stderr."""
        assert self.process is not None
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def http(self, port: int, path: str, method: str = "GET") -> tuple[int, str]:
        """One request to loopback of the agent's network; (0, reason) if nobody answers."""

        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request(method, path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except OSError as error:
                return 0, str(error)
            finally:
                connection.close()

        return self.network.call(ask)

    def wait_ready(self) -> None:
        wait_for(lambda: self.http(15020, "/healthz/ready")[0] == 200, 20)

    def envoy_starts(self) -> list[int]:
        path = self.folder / "starts.log"
        return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []

    def kill_envoy(self) -> None:
        os.kill(self.envoy_starts()[-1], signal.SIGKILL)
