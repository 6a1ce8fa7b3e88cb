"""What a node gets: who it is, which names, which versions change with the mesh."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lab.mesh import Mesh, parse
from agent.lab.resources import Node, snapshot, workload_of
from agent.lab.session import CDS, EDS, LDS, NDS, PUSH_ORDER, RDS, Snapshot

TEXT = """\
mtls: STRICT
services:
  - {name: b, namespace: demo, vip: 10.96.0.2, port: 80, target_port: 8080, headers: {x-config: v1}}
workloads:
  - {name: a, namespace: demo, service_account: a, ip: 10.77.0.11}
  - {name: b, namespace: demo, service_account: b, ip: 10.77.0.12, service: b}
"""
MESH = parse(TEXT)
A = Node.parse("sidecar~10.77.0.11~a.demo~demo.svc.cluster.local")
B = Node.parse("sidecar~10.77.0.12~b.demo~demo.svc.cluster.local")


def changed(before: Snapshot, after: Snapshot) -> set[str]:
    """Types in which any version differs."""
    return {
        url
        for url in PUSH_ORDER
        if {n: r.version for n, r in before[url].items()} != {n: r.version for n, r in after[url].items()}
    }


def test_node_ids() -> None:
    assert Node("sidecar", "10.77.0.11", "a", "demo") == A
    assert Node.parse("router~::1~x.y.z~d") == Node("router", "::1", "x.y", "z")


@given(st.text())
def test_any_text_is_a_node_or_a_value_error(text: str) -> None:
    try:
        Node.parse(text)
    except ValueError as error:
        assert "node id" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["", "a", "sidecar~1~x~d", "a~b~c.d", "a~b~c.d~e~f"])
def test_malformed_node_ids(text: str) -> None:
    with pytest.raises(ValueError, match="node id"):
        Node.parse(text)


def test_workloads_are_known_by_name_then_by_address() -> None:
    assert workload_of(MESH, B) is MESH.workloads[1]
    assert workload_of(MESH, Node("sidecar", "10.77.0.12", "x", "y")) is MESH.workloads[1]
    assert workload_of(MESH, Node("sidecar", "10.77.0.99", "x", "y")) is None


def test_names_of_a_server() -> None:
    world = snapshot(MESH, B)
    assert set(world) == set(PUSH_ORDER)
    outbound = "outbound|80||b.demo.svc.cluster.local"
    assert set(world[CDS]) == {
        outbound,
        "inbound|8080||",
        "PassthroughCluster",
        "InboundPassthroughCluster",
        "BlackHoleCluster",
    }
    assert set(world[EDS]) == {outbound}
    assert set(world[LDS]) == {"virtualOutbound", "virtualInbound", "10.96.0.2_80"}
    assert set(world[RDS]) == {"b.demo.svc.cluster.local:80"}
    assert set(world[NDS]) == {""}


def test_a_pure_client_has_no_inbound_cluster() -> None:
    assert "inbound|8080||" not in snapshot(MESH, A)[CDS]


def test_a_router_has_no_redirect_listeners() -> None:
    world = snapshot(MESH, Node("router", "10.77.0.1", "gw", "demo"))
    assert world[LDS] == {}
    assert set(world[CDS]) == {"outbound|80||b.demo.svc.cluster.local"}


def test_only_what_a_change_touches_gets_a_new_version() -> None:
    before = snapshot(MESH, A)
    assert changed(before, snapshot(parse(TEXT), A)) == set()
    assert changed(before, snapshot(parse(TEXT.replace("v1", "v2")), A)) == {RDS}
    assert changed(before, snapshot(parse(TEXT.replace("10.77.0.12", "10.77.0.13")), A)) == {EDS}
    assert changed(before, snapshot(parse(TEXT.replace("service_account: b", "service_account: c")), A)) == {CDS}
    assert changed(before, snapshot(parse(TEXT.replace("10.96.0.2", "10.96.0.3")), A)) == {LDS, NDS}


def test_an_empty_mesh_still_makes_a_sidecar() -> None:
    assert set(snapshot(Mesh(), A)[LDS]) == {"virtualOutbound", "virtualInbound"}
