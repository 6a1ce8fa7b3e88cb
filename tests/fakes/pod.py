"""A pod's proxy as the kubelet runs it: init container, proxy container, hooks, probes, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.fakes.cluster import Cluster, fetch
from tests.fakes.container import ENVOY, Container, expand, isolated, lay_out
from tests.fakes.envoy import wait_for

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def downward(pairs: Mapping[str, str]) -> str:
    """A file of the downward API."""
    return "".join(f"{key}={json.dumps(value)}\n" for key, value in sorted(pairs.items()))


class Pod:
    """One proxy container in the network of the cluster's pod; it is gone when the cluster closes."""

    def __init__(
        self,
        cluster: Cluster,
        container: Container,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        limits: Mapping[str, str] | None = None,
        envoy: Path = ENVOY,
        name: str = "p",
    ) -> None:
        self.cluster, self.container, self._envoy = cluster, container, envoy
        self.environ = {"PATH": PATH, "HOME": "/", **container.environ(limits or {})}
        self.folder = cluster.folder / name
        self.log, self.errors = self.folder / "agent.log", self.folder / "errors.log"
        self.process: subprocess.Popen[bytes] | None = None
        contents = {
            "root": {"root-cert.pem": cluster.istiod.root.pem.decode()},
            "token": {"istio-token": "token-1"},
            "podinfo": {"labels": downward(labels or {}), "annotations": downward(annotations or {})},
        }
        lay_out(self.folder, container.mounts, contents)
        cluster.closing.callback(self._close)

    def init(self, container: Container) -> None:
        """Run the init container to its end."""
        command = isolated(self.folder, replace(container, mounts={}), self._envoy, ["pilot-agent", *container.args])
        environ = {"PATH": PATH, **container.environ({})}
        done = self.cluster.pod.call(
            lambda: subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        argv = ["pilot-agent", *expand(self.container.args, self.environ)]
        command = isolated(self.folder, self.container, self._envoy, argv)
        with self.log.open("ab") as out, self.errors.open("ab") as err:
            for file in (out, err):
                os.fchown(file.fileno(), self.container.user, self.container.group)
            self.process = self.cluster.pod.call(
                lambda: subprocess.Popen(command, env=self.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            )

    @property
    def running(self) -> bool:
        assert self.process is not None
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        """The agent, the first process of its container, once the container is complete around it."""
        (pid,) = wait_for(self._children)
        wait_for(lambda: os.readlink(f"/proc/{pid}/root") != "/")
        return int(pid)

    def _children(self) -> list[str]:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()

    def envoy_pid(self) -> int:
        """The agent's child that runs the real Envoy."""

        def found() -> int:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    if Path(f"/proc/{child}/exe").stat().st_ino == ENVOY.stat().st_ino:
                        return int(child)
            return 0

        return int(wait_for(found))

    def exec(self, *command: str) -> tuple[int, str]:
        """A hook: one more process in the running container; its status and output."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--root", "--wd"]
        full = [*enter, *self.container.become(), *command]
        done = subprocess.run(full, env=self.environ, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    def http(self, port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
        """One request from within the pod; (0, reason) if nobody answers."""
        return self.cluster.pod.call(lambda: fetch(host, port, path, "GET"))

    def wait_ready(self, port: int = 15021) -> None:
        """As the kubelet sees it."""
        wait_for(lambda: self.cluster.probe(port, "/healthz/ready") == 200 or not self.running, 20)
        assert self.running, self.log.read_text() + self.errors.read_text()

    def terminate(self) -> tuple[int, str, str]:
        """SIGTERM, as the kubelet sends it."""
        os.kill(self.pid, signal.SIGTERM)
        return self.end()

    def quit(self) -> tuple[int, str, str]:
        """The order to end now."""
        assert self.exec("pilot-agent", "request", "--debug-port=15020", "POST", "quitquitquit") == (0, "OK\n")
        return self.end()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end: exit status, log and errors of the whole life."""
        assert self.process is not None
        status = self.process.wait(30)
        return status, self.log.read_text(), self.errors.read_text()

    def _close(self) -> None:
        if self.process is not None and self.running:
            # Its change of users has freed it from dying with its parent; everything inside dies with it.
            for pid in self._children():
                os.kill(int(pid), signal.SIGKILL)
            self.process.wait(10)
        shutil.rmtree(self.folder)
