"""`remora-agent lab up --mesh FILE`: a mesh of your own that runs until Ctrl-C."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.errors import ConfigError, FatalError, RemoraError
from agent.lab.console import Console
from agent.lab.demo import MESH, Parser
from agent.lab.observe import Unmet, until
from agent.lab.options import CA_PORT, PLANE_PORT, Options, find_envoy
from agent.lab.pod import APP_UID, Pod
from agent.lab.probe import http_request
from agent.lab.scene import READY_PORT, milliseconds
from agent.lab.steps import READY_LIMIT
from agent.lab.world import Lab, interruptible

POLL = 0.5  # seconds between two looks at the mesh file and the processes


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="remora-agent lab up",
        description="Run the mesh that a YAML file describes until Ctrl-C: control plane, CA, and for each workload a "
        "network namespace with redirect rules, agent, Envoy and an application that echoes requests. Changes of the "
        "file reach the mesh while it runs; new workloads need a restart. Needs root.",
        epilog="An example of the file:\n\n" + MESH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mesh", type=Path, required=True, metavar="FILE", help="services, workloads, mTLS mode")
    parser.add_argument("--logs", type=Path, default=Path("lab-report"), metavar="DIR", help="folder for logs")
    parser.add_argument("--ttl", default="24h", help="life of a workload certificate (default %(default)s)")
    parser.add_argument("--ipv6", action="store_true", help="give pods addresses of fd77::/64 as well")
    return parser


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        options = _parser().parse_args(list(argv))
        with interruptible():
            return _up(options, environ)
    except RemoraError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the lab is gone", file=sys.stderr)
        return 0
    except SystemExit as end:  # argparse, after --help
        return int(end.code or 0)


def read(path: Path) -> str:
    """The text of the mesh file. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the mesh file {path}: {error}") from None


def entering(pod: Pod, uid: int) -> str:
    """The command line that opens a shell in a pod as a user."""
    assert pod.app is not None
    return f"nsenter -t {pod.app.pid} -n -m setpriv --reuid {uid} --regid {uid} --clear-groups sh"


def _up(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    console = Console()
    text = read(options.mesh)
    with Lab(Options(text, options.logs.resolve(), find_envoy(environ), options.ttl, options.ipv6)) as lab:
        console.line(f"lab {lab.id}: logs in {options.logs}/", style="bold")
        lab.start_ca()
        lab.start_plane()
        lab.wait_listening("ca", CA_PORT)
        lab.wait_listening("plane", PLANE_PORT)
        for pod in lab.pods.values():
            pod.write_rules()
            pod.start_app()
            pod.start_agent()
        for name, took in _wait_ready(lab).items():
            pod = lab.pods[name]
            console.line(f"  {name}: ready after {took} on {pod.namespace.ip}; enter: {entering(pod, APP_UID)}")
        for service in lab.mesh.services:
            console.line(f"  http://{service.host}:{service.port}/ from inside a pod")
        console.line(f"edit {options.mesh} and the mesh follows; Ctrl-C ends it")
        _follow(lab, options.mesh, text, console)
    return 0


def _wait_ready(lab: Lab) -> dict[str, str]:
    """Until every pod is ready: name → time since the exec of its agent. Raises FatalError."""
    ready: dict[str, str] = {}

    def look() -> bool:
        for name, pod in lab.pods.items():
            assert pod.agent is not None
            if not pod.agent.running:
                raise FatalError(f"the agent of {name} ended with status {pod.agent.status()}, see {pod.agent.log}")
            if name not in ready and _is_ready(lab, pod):
                ready[name] = milliseconds(time.time() - pod.agent.started)
        return len(ready) == len(lab.pods)

    try:
        until("pods to be ready", READY_LIMIT, look)
    except Unmet:
        late = next(pod for name, pod in lab.pods.items() if name not in ready)
        raise FatalError(f"pod {late.name} is not ready after {READY_LIMIT:g} s, see {late.log('agent')}") from None
    return {name: ready[name] for name in lab.pods}


def _is_ready(lab: Lab, pod: Pod) -> bool:
    return http_request(lab.node, pod.namespace.ip, READY_PORT, "/healthz/ready", limit=1.0).status == 200


def _follow(lab: Lab, path: Path, text: str, console: Console) -> None:
    """Pass changes of the mesh file on, and say when a process ends; for ever."""
    ended: set[str] = set()
    while True:
        time.sleep(POLL)
        try:
            now = read(path)
        except ConfigError:
            continue  # being replaced; the next look will find it
        if now != text:
            text = now
            lab.write_mesh(text)
            console.line(f"{path} changed: handed to the control plane")
        for each in lab.processes():
            if not each.running and each.name not in ended:
                ended.add(each.name)
                console.line(f"{each.name} ended with status {each.status()}, see {each.log}")
