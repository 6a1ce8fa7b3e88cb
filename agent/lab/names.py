"""The name table that agents with a DNS server subscribe to: every service name and its virtual address."""

from agent.lab.mesh import Mesh
from agent.protos import names_pb2


def table(mesh: Mesh) -> names_pb2.NameTable:
    """Keys are full host names; several ports of one service share a key. Source: istio.networking.nds.v1."""
    result = names_pb2.NameTable()
    for service in mesh.services:
        info = result.table[service.host]
        info.registry, info.shortname, info.namespace = "Kubernetes", service.name, service.namespace
        if service.vip not in info.ips:
            info.ips.append(service.vip)
    return result


def encode(mesh: Mesh) -> bytes:
    """Deterministic bytes: the same mesh gives the same version."""
    return table(mesh).SerializeToString(deterministic=True)
