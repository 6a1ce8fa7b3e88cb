"""The name table holds every service under its full name."""

from agent.lab import names
from agent.lab.mesh import parse
from agent.protos import names_pb2

MESH = parse(
    "services:\n"
    "  - {name: b, namespace: demo, vip: 10.0.0.2, port: 80}\n"
    "  - {name: b, namespace: demo, vip: 10.0.0.2, port: 81}\n"
)


def test_table() -> None:
    table = names_pb2.NameTable.FromString(names.encode(MESH)).table
    assert list(table) == ["b.demo.svc.cluster.local"]
    info = table["b.demo.svc.cluster.local"]
    assert (list(info.ips), info.registry, info.shortname, info.namespace) == (["10.0.0.2"], "Kubernetes", "b", "demo")


def test_the_same_mesh_gives_the_same_bytes() -> None:
    many = parse("services:\n" + "".join(f"  - {{name: s{i}, vip: 10.0.0.{i + 1}, port: 80}}\n" for i in range(50)))
    assert names.encode(many) == names.encode(many)
