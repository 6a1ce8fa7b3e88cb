"""A whole mesh on one machine: network, control plane, CA, name server and pods, and their removal."""

import compileall
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import agent
from agent.errors import FatalError
from agent.lab import janitor, mounts, process, setup
from agent.lab.janitor import Janitor
from agent.lab.mesh import Mesh, duration
from agent.lab.mesh import parse as parse_mesh
from agent.lab.net import Namespace, Network, check_privileges
from agent.lab.options import CA_PORT, DNS_IP, OUTSIDE_IP, PLANE_IP, PLANE_NAME, PLANE_PORT, Options, check_addresses
from agent.lab.pod import PROXY_UID, Pod, Shared
from agent.lab.process import Place, Process

PROJECT = Path(agent.__file__).resolve().parent.parent


class Lab:
    """Use as a context manager: whatever happens inside, nothing of the lab is left when it ends."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.mesh: Mesh = parse_mesh(options.mesh_text)
        check_addresses(self.mesh)
        self.id = secrets.token_hex(2)
        self.pods: dict[str, Pod] = {}
        self.finished: list[Process] = []
        self._infra: dict[str, Process] = {}
        self._infra_mounts: int | None = None

    def __enter__(self) -> "Lab":
        check_privileges()
        self._clear_logs()
        # Pods' users cannot write bytecode: without this each of their starts would compile the agent anew.
        compileall.compile_dir(str(PROJECT / "agent"), quiet=2)
        compileall.compile_dir(str(PROJECT / "init"), quiet=2)
        self.janitor = Janitor()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        self.work = Path(tempfile.mkdtemp(prefix=f"remora-lab-{self.id}-"))
        self.janitor.directory(self.work)
        self.work.chmod(0o755)
        self.network = Network(self.id, self.janitor, ipv6=self.options.ipv6)
        self.node = self.network.create()
        self.istiod = self.network.add("istiod", PLANE_IP, extra=[DNS_IP])
        self.outside = self.network.add("outside", OUTSIDE_IP)
        # Every directory that imports may come from, beside the interpreter's own.
        needed = {Path(sys.prefix), Path(sys.base_prefix), PROJECT, self.options.envoy.parent}
        self._infra_mounts = mounts.private_namespace((*needed, self.work), {})
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "LANG": "C.UTF-8",
        }
        self.environ = environ
        self.mesh_file = self.work / "mesh.yaml"
        self.write_mesh(self.options.mesh_text)
        self.secrets = self.work / "plane"
        self._own_directory(self.secrets)
        status, output = process.run(
            self._infra_place(),
            self._lab_command("init", "--dir", str(self.secrets), "--mesh", str(self.mesh_file), "--san", PLANE_IP),
            environ,
        )
        if status != 0:
            raise FatalError(f"`lab init` failed: {output.strip()}")
        self.shared = Shared(
            python=sys.executable,
            envoy=self.options.envoy,
            needed=tuple(needed),
            work=self.work,
            logs=self.options.logs,
            environ=environ,
            nameserver=DNS_IP,
            plane=f"{PLANE_NAME}:{PLANE_PORT}",
            ca=f"{PLANE_NAME}:{CA_PORT}",
            secrets=self.secrets,
            secret_ttl=self.options.certificate_ttl,
        )
        for workload in self.mesh.workloads:
            pod = Pod(self.mesh, workload, self.network.add(workload.name, workload.ip), self.shared)
            self.pods[workload.name] = pod
            pod.prepare()
        self._start_nameserver()

    def _clear_logs(self) -> None:
        """Logs are appended to while a lab runs; those of an earlier one must not be mixed in."""
        try:
            self.options.logs.mkdir(parents=True, exist_ok=True)
            for old in (*self.options.logs.glob("*.log"), self.options.logs / "index.html"):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise FatalError(f"cannot write to {self.options.logs}: {error.strerror}") from None

    def _own_directory(self, path: Path) -> None:
        path.mkdir(mode=0o755)
        shutil.chown(path, PROXY_UID, PROXY_UID)

    def _infra_place(self, *capabilities: str) -> Place:
        return Place(self.istiod, self.work, self._infra_mounts, PROXY_UID, capabilities)

    def _lab_command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "agent", "lab", *words]

    def write_mesh(self, text: str) -> None:
        """Replace the mesh file at once, as an editor or a config sync would; a running plane notices."""
        temporary = self.mesh_file.with_suffix(".new")
        temporary.write_text(text)
        temporary.chmod(0o644)
        temporary.replace(self.mesh_file)

    # ---- infrastructure ----------------------------------------------------------------------------------------

    def _start_infra(self, name: str, argv: Sequence[str], *capabilities: str) -> Process:
        log = self.options.logs / f"{name}.log"
        started = process.start(name, self._infra_place(*capabilities), argv, log, self.environ)
        if name in self._infra:
            self.finished.append(self._infra[name])
        self._infra[name] = started
        return started

    def _start_nameserver(self) -> None:
        zone = f"{PLANE_NAME}.cluster.local={PLANE_IP}"
        argv = [sys.executable, "-m", "agent.lab.nameserver", DNS_IP, zone]
        self._start_infra("nameserver", argv, "net_bind_service")

    def start_plane(self) -> Process:
        """The control plane: discovery (ADS) and name tables."""
        d = self.secrets
        argv = self._lab_command(
            "plane", "--mesh", str(self.mesh_file), "--listen", f"0.0.0.0:{PLANE_PORT}",
            "--cert", str(d / setup.SERVER_CERT), "--key", str(d / setup.SERVER_KEY),
            "--root", str(d / setup.ROOT_CERT),
        )  # fmt: skip
        return self._start_infra("plane", argv)

    def start_ca(self) -> Process:
        """The certificate service."""
        d = self.secrets
        argv = self._lab_command(
            "ca", "--listen", f"0.0.0.0:{CA_PORT}", "--dir", str(d), "--tokens", str(d / "tokens")
        )  # fmt: skip
        return self._start_infra("ca", argv)

    def infra(self, name: str) -> Process:
        return self._infra[name]

    def find_infra(self, name: str) -> Process | None:
        return self._infra.get(name)

    def seconds_of_certificates(self) -> float:
        """How long a workload certificate lives here."""
        asked = duration(self.options.certificate_ttl)
        return asked if self.mesh.ttl is None else min(asked, self.mesh.ttl)

    @staticmethod
    def members(pod: Pod, besides: Process | None) -> list[str]:
        """What runs in a pod's namespace, apart from one process: command lines."""
        found = []
        for pid in janitor.members(pod.namespace.name):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (besides is None or pid != besides.pid) and any(words):
                found.append(" ".join(word.decode(errors="replace") for word in words).strip())
        return found

    def wait_listening(self, name: str, port: int, limit: float = 15.0) -> None:
        """Until something accepts on the control plane's `port`. Raises FatalError when it does not, or ended."""

        def accepts() -> bool:
            with socket.socket() as probe:
                probe.settimeout(1.0)
                return probe.connect_ex((PLANE_IP, port)) == 0

        deadline = time.monotonic() + limit
        while not self.istiod.call(accepts):
            running = self._infra[name]
            if not running.running:
                raise FatalError(f"{name} ended with status {running.status()}, see {running.log}")
            if time.monotonic() > deadline:
                raise FatalError(f"{name} does not listen on port {port} after {limit:g} s, see {running.log}")
            time.sleep(0.02)

    # ---- the end -----------------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Everything that was started for long, the ended ones too."""
        found = [*self.finished, *self._infra.values()]
        for pod in self.pods.values():
            found += pod.processes()
        return found

    def close(self) -> None:
        """Kill what runs, remove what was made. May be called twice."""
        for running in self.processes():
            running.kill()
        for pod in self.pods.values():
            pod.close()
        if self._infra_mounts is not None:
            os.close(self._infra_mounts)
            self._infra_mounts = None
        problems = self.janitor.close()
        if problems:
            raise FatalError("; ".join(problems))

    def namespaces(self) -> dict[str, Namespace]:
        return {"net": self.node, "istiod": self.istiod, "outside": self.outside} | {
            name: pod.namespace for name, pod in self.pods.items()
        }


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the lab as Ctrl-C does: through its `finally` blocks."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
