"""Mesh and node to everything that this node may ask for, as serialized resources with content versions. Pure."""

from dataclasses import dataclass
from typing import Any

from agent.lab import clusters, listeners, names
from agent.lab.mesh import Mesh, Workload
from agent.lab.session import CDS, EDS, LDS, NDS, RDS, Resource, Snapshot, resource


@dataclass(frozen=True, slots=True)
class Node:
    """Who opened a stream. From the node id `sidecar~10.77.0.11~a.demo~demo.svc.cluster.local`."""

    role: str
    ip: str
    name: str
    namespace: str

    @classmethod
    def parse(cls, text: str) -> "Node":
        """Raises ValueError for anything that is not istio's four-part id."""
        parts = text.split("~")
        if len(parts) != 4:
            raise ValueError(f"node id {text!r} is not role~ip~name.namespace~domain")
        name, dot, namespace = parts[2].rpartition(".")
        if not dot:
            raise ValueError(f"node id {text!r} has no namespace in its third part")
        return cls(parts[0], parts[1], name, namespace)


def workload_of(mesh: Mesh, node: Node) -> Workload | None:
    """The workload by name, else by address; None for a proxy that the mesh file does not list (a pure client)."""
    for workload in mesh.workloads:
        if (workload.name, workload.namespace) == (node.name, node.namespace):
            return workload
    return next((w for w in mesh.workloads if w.ip == node.ip), None)


def snapshot(mesh: Mesh, node: Node) -> Snapshot:
    """Type URL → name → resource. A sidecar gets everything; other roles get clusters, endpoints, routes and names."""
    v6 = ":" in node.ip
    wildcard, source = ("::", "::6") if v6 else ("0.0.0.0", "127.0.0.6")
    workload = workload_of(mesh, node)
    own = mesh.services_of(workload) if workload is not None and node.role == "sidecar" else ()
    cds = [clusters.outbound(mesh, service) for service in mesh.services]
    lds: list[Any] = []
    if node.role == "sidecar":
        cds += clusters.builtin(source)
        cds += list({c.name: c for c in (clusters.inbound(service, source) for service in own)}.values())
        lds = [listeners.outbound(mesh, service) for service in mesh.services]
        lds += [listeners.virtual_outbound(mesh, wildcard), listeners.virtual_inbound(mesh, own, wildcard)]
    eds = [clusters.endpoints(mesh, service) for service in mesh.services]
    rds = [listeners.route(service) for service in mesh.services]
    return {
        CDS: {c.name: resource(c.name, bytes(c)) for c in cds},
        EDS: {e.cluster_name: resource(e.cluster_name, bytes(e)) for e in eds},
        LDS: {listener.name: resource(listener.name, bytes(listener)) for listener in lds},
        RDS: {r.name: resource(r.name, bytes(r)) for r in rds},
        NDS: {"": _names(mesh)},
    }


def _names(mesh: Mesh) -> Resource:
    return resource("", names.encode(mesh))
