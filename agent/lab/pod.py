"""A pod of the lab: a namespace, a directory laid out like the injected container, rules, agent, Envoy, application."""

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import FatalError
from agent.lab import mounts, process
from agent.lab.mesh import Mesh, Workload
from agent.lab.net import Namespace
from agent.lab.process import Place, Process

PROXY_UID, APP_UID = 1337, 1000
INIT_ARGS = (
    "-p", "15001", "-z", "15006", "-u", str(PROXY_UID), "-m", "REDIRECT",
    "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020",
)  # fmt: skip
# What the webhook mounts into the sidecar container, relative to its working directory.
MOUNTS = (
    "etc/istio/proxy", "etc/istio/pod", "var/lib/istio/data", "var/run/secrets/istio", "var/run/secrets/tokens",
    "var/run/secrets/workload-spiffe-uds", "var/run/secrets/workload-spiffe-credentials",
    "var/run/secrets/credential-uds",
)  # fmt: skip
NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"


@dataclass(frozen=True, slots=True)
class Shared:
    """What all pods of a lab have in common. `environ` is the base of every process's environment."""

    python: str
    envoy: Path
    needed: tuple[Path, ...]  # trees that pods must be able to reach
    work: Path
    logs: Path
    environ: Mapping[str, str]
    nameserver: str
    plane: str  # host:port
    ca: str  # host:port
    secrets: Path  # made by `lab init`
    secret_ttl: str


def _own(path: Path, uid: int) -> None:
    os.chown(path, uid, uid)


class Pod:
    """One workload. `prepare` once, then rules, agent and application in the order of a real pod."""

    def __init__(self, mesh: Mesh, workload: Workload, namespace: Namespace, shared: Shared) -> None:
        self.workload, self.namespace, self._mesh, self._shared = workload, namespace, mesh, shared
        self.name = workload.name
        self.root = shared.work / workload.name
        self.agent: Process | None = None
        self.app: Process | None = None
        self._mounts: int | None = None
        self._clients: list[Process] = []

    @property
    def port(self) -> int:
        """Where the application listens: the target port of the workload's service."""
        services = self._mesh.services_of(self.workload)
        return services[0].target_port if services else 8080

    def prepare(self) -> None:
        """Lay out the working directory and the private mount namespace."""
        self.root.mkdir(mode=0o755)
        for directory in MOUNTS:
            path = self.root
            for part in Path(directory).parts:
                path = path / part
                path.mkdir(mode=0o755, exist_ok=True)
                _own(path, PROXY_UID)
        _own(self.root, PROXY_UID)
        token = self._shared.secrets / "tokens" / f"{self.workload.namespace}.{self.workload.name}"
        shutil.copyfile(self._shared.secrets / "root-cert.pem", self.root / "var/run/secrets/istio/root-cert.pem")
        self.install_token(token.read_text())
        labels = {"app": self.name, "service.istio.io/canonical-name": self.name, "security.istio.io/tlsMode": "istio"}
        annotations = {"proxy.istio.io/config": json.dumps({"terminationDrainDuration": "5s"})}
        for name, values in (("labels", labels), ("annotations", annotations)):
            lines = "".join(f"{key}={json.dumps(value)}\n" for key, value in values.items())
            (self.root / "etc/istio/pod" / name).write_text(lines)
        files = self._resolver_files(self._shared.work / f"{self.name}-etc")
        self._mounts = mounts.private_namespace((*self._shared.needed, self._shared.work), files)

    def install_token(self, text: str) -> None:
        """Put a service-account token where the kubelet would, readable by the agent alone."""
        path = self.root / "var/run/secrets/tokens/istio-token"
        path.write_text(text)
        path.chmod(0o640)
        _own(path, PROXY_UID)

    def _resolver_files(self, directory: Path) -> dict[Path, Path]:
        directory.mkdir(mode=0o755)
        zone = f"{self.workload.namespace}.svc.cluster.local"
        contents = {
            "resolv.conf": f"search {zone} svc.cluster.local cluster.local\nnameserver {self._shared.nameserver}\n"
            "options ndots:5\n",
            "hosts": f"127.0.0.1 localhost\n{self.namespace.ip} {self.name}\n",
            "nsswitch.conf": NSSWITCH,
        }
        for name, text in contents.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o644)
        return {Path("/etc") / name: directory / name for name in contents}

    def place(self, uid: int, *capabilities: str) -> Place:
        """Inside the pod, in its working directory, as `uid`."""
        return Place(self.namespace, self.root, self._mounts, uid, capabilities)

    def environ(self) -> dict[str, str]:
        """The environment that the webhook gives the sidecar, without the parts that need a cluster."""
        proxy_config = {
            "binaryPath": str(self._shared.envoy),
            "discoveryAddress": self._shared.plane,
            "concurrency": 1,
            "proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"},
        }
        return {
            **self._shared.environ,
            "PILOT_CERT_PROVIDER": "istiod",
            "CA_ADDR": self._shared.ca,
            "POD_NAME": self.name,
            "POD_NAMESPACE": self.workload.namespace,
            "INSTANCE_IP": self.workload.ip,
            "SERVICE_ACCOUNT": self.workload.service_account,
            "PROXY_CONFIG": json.dumps(proxy_config) + "\n",
            "ISTIO_META_CLUSTER_ID": "Kubernetes",
            "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
            "ISTIO_META_WORKLOAD_NAME": self.name,
            "ISTIO_META_MESH_ID": self._mesh.trust_domain,
            "ISTIO_META_DNS_CAPTURE": "true",
            "TRUST_DOMAIN": self._mesh.trust_domain,
            "SECRET_TTL": self._shared.secret_ttl,
            # The guard needs to know what the init container was told.
            "REDIRECT_GUARD": "apply",
            "REDIRECT_ARGS": shlex.join(INIT_ARGS),
        }

    def write_rules(self) -> str:
        """Run the init container's command to its end; returns its output. Raises FatalError."""
        environ = {**self._shared.environ, "ISTIO_META_DNS_CAPTURE": "true"}
        argv = [self._shared.python, "-m", "agent", "istio-iptables", *INIT_ARGS]
        status, output = process.run(self.place(0), argv, environ)
        with (self._shared.logs / f"{self.name}-init.log").open("a") as log:
            log.write(output)
        if status != 0:
            last = output.strip().splitlines()[-1:] or ["no output"]
            raise FatalError(f"istio-iptables in pod {self.name} ended with status {status}: {last[0]}")
        return output

    def rules(self) -> list[str]:
        """The redirect rules that the kernel has now (`-A` lines of iptables-save), in order, without counters."""
        status, output = process.run(self.place(0), [process.tool("iptables-save")], self._shared.environ)
        if status != 0:
            raise FatalError(f"iptables-save in pod {self.name} failed: {output.strip()}")
        table, lines = "", []
        for line in output.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A "):
                lines.append(f"{table} {line}")
        return lines

    def start_agent(self, **environ: str) -> Process:
        """Start the agent as the proxy's user, with NET_ADMIN so that it may repair the rules."""
        argv = [
            self._shared.python, "-m", "agent", "proxy", "sidecar",
            "--domain", f"{self.workload.namespace}.svc.cluster.local",
            "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info",
        ]  # fmt: skip
        place = self.place(PROXY_UID, "net_admin")
        self.agent = process.start(f"{self.name}-agent", place, argv, self.log("agent"), self.environ() | environ)
        return self.agent

    def envoy_pid(self) -> int | None:
        return None if self.agent is None else process.child_running(self.agent.pid, self._shared.envoy)

    def start_app(self) -> Process:
        argv = [self._shared.python, "-m", "agent.lab.app", self.name, str(self.port)]
        self.app = process.start(f"{self.name}-app", self.place(APP_UID), argv, self.log("app"), self._shared.environ)
        return self.app

    def run_client(self, kind: str, argv: list[str]) -> Process:
        """Start one of the lab's own modules as the application's user; its output is the log `<pod>-<kind>.log`."""
        full = [self._shared.python, "-m", *argv]
        place = self.place(APP_UID)
        client = process.start(f"{self.name}-{kind}", place, full, self.log(kind), self._shared.environ)
        self._clients.append(client)
        return client

    def log(self, kind: str) -> Path:
        return self._shared.logs / f"{self.name}-{kind}.log"

    def processes(self) -> list[Process]:
        return [*(p for p in (self.agent, self.app) if p is not None), *self._clients]

    def close(self) -> None:
        """Let go of the mount namespace; processes are the lab's business."""
        if self._mounts is not None:
            os.close(self._mounts)
            self._mounts = None
