"""Every flag by what it does to connections, in both families, on every backend."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from init import apply, config
from tests.fakes.netns import sh
from tests.fakes.world import FAR, FAR6, PEER, POD, POD6, World, choice

pytestmark = pytest.mark.root

SIDECAR = ["-u", "1337", "-i", "*", "-b", "*"]
PORTS = (22, 53, 90, 15008, 15053, 15101, 15106, 15208)
PLACES = {
    4: {"far": FAR, "pod": POD, "loop": "127.0.0.1", "loop2": "127.1.2.3"},
    6: {"far": FAR6, "pod": POD6, "loop": "::1"},
}
APP, PROXY, PEERS = (1000, 1000), (1337, 1337), None
Case = tuple[tuple[int, int] | None, str, int, object]

# flags, environment, and for each case: who (uid, gid; None is a peer), where to, which port, what happens
FLAGS: dict[str, tuple[list[str], dict[str, str], list[Case]]] = {
    "envoy-port": (["-p", "15101"], {}, [(APP, "far", 80, 15101), (PEERS, "pod", 22, 15006)]),
    "inbound-capture-port": (["-z", "15106"], {}, [(PEERS, "pod", 22, 15106), (PROXY, "pod", 22, 15106)]),
    "inbound-tunnel-port": (
        ["-e", "15208"],
        {},
        [(PEERS, "pod", 15208, "direct"), (PEERS, "pod", 15008, 15006), (PROXY, "pod", 15208, "direct")],
    ),
    "proxy-uid": (
        ["-u", "5"],
        {},
        [((5, 0), "far", 80, "direct"), ((5, 0), "pod", 22, 15006), (PROXY, "far", 80, 15001)],
    ),
    "proxy-uid of several": (["-u", "5,9"], {}, [((n, 0), "far", 80, "direct") for n in (5, 9)]),
    "proxy-gid": (["-g", "6"], {}, [((0, 6), "far", 80, "direct"), ((0, 1337), "far", 80, 15001)]),
    "interception-mode": (["-m", "TPROXY"], {}, [(PEERS, "pod", 22, "tproxied"), (APP, "far", 80, 15001)]),
    "tproxy-mark and table": (["-m", "TPROXY", "-t", "77", "-r", "99"], {}, [(PEERS, "pod", 22, "tproxied")]),
    "inbound-ports": (
        ["-b", "22,80:90"],
        {},
        [(PEERS, "pod", 22, 15006), (PEERS, "pod", 90, 15006), (PEERS, "pod", 53, "direct")],
    ),
    "no inbound-ports": (["-b", ""], {}, [(PEERS, "pod", 22, "direct"), (APP, "far", 80, 15001)]),
    "local-exclude-ports": (
        ["-d", "22,80:90"],
        {},
        [(PEERS, "pod", 22, "direct"), (PEERS, "pod", 90, "direct"), (PEERS, "pod", 53, 15006)],
    ),
    "exclude-interfaces": (
        ["-c", "eth0"],
        {},
        [(PEERS, "pod", 22, "direct"), (APP, "far", 80, "direct"), (PROXY, "pod", 22, 15006)],
    ),
    "service-cidr": (["-i", "203.0.113.0/24,2001:db8:ffff::/48"], {}, [(APP, "far", 80, 15001)]),
    "another service-cidr": (["-i", "10.200.0.0/16,fd99::/16"], {}, [(APP, "far", 80, "direct")]),
    "no service-cidr": (["-i", ""], {}, [(APP, "far", 80, "direct"), (PEERS, "pod", 22, 15006)]),
    "service-exclude-cidr": (["-x", "203.0.113.0/24,2001:db8::/32"], {}, [(APP, "far", 80, "direct")]),
    "outbound-ports": (
        ["-i", "", "-q", "80,1000:2000"],
        {},
        [(APP, "far", 80, 15001), (APP, "far", 1500, 15001), (APP, "far", 90, "refused")],
    ),
    "outbound-ports-exclude": (["-o", "80"], {}, [(APP, "far", 80, "direct"), (APP, "far", 90, 15001)]),
    "kube-virt-interfaces": (["-k", "eth0"], {}, [(PEERS, "pod", 22, 15001)]),
    # The lock is the namespace's own file: another pod's rules never wait for these.
    "cni-mode": (
        ["--cni-mode", "--network-namespace", "/proc/self/ns/net"],
        {},
        [(APP, "far", 80, 15001), (PEERS, "pod", 22, 15006), (PROXY, "far", 80, "direct")],
    ),
    "redirect-dns": (
        ["--redirect-dns", "--capture-all-dns"],
        {},
        [
            (APP, "far", 53, 15053),
            (APP, "loop", 53, 15053),
            (PROXY, "far", 53, "refused"),
            (PROXY, "pod", 53, "direct"),
        ],
    ),
    "dns of another server": (["--redirect-dns"], {}, [(APP, "far", 53, 15001)]),
    "owner groups": (
        [],
        {"ISTIO_OUTBOUND_OWNER_GROUPS": "7,8"},
        [((1, 7), "far", 80, 15001), (APP, "far", 80, "direct")],
    ),
    "many owner groups": (
        [],
        {"ISTIO_OUTBOUND_OWNER_GROUPS": ",".join(str(n) for n in range(5000, 5064))},
        [((1, 5063), "far", 80, 15001), (APP, "far", 80, "direct"), (PROXY, "far", 80, "direct")],
    ),
    "owner groups exclude": (
        [],
        {"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "7"},
        [((1, 7), "far", 80, "direct"), (APP, "far", 80, 15001)],
    ),
    "loopback": (
        [],
        {"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.1.0.0/16"},
        [(PROXY, "loop2", 22, "direct"), (PROXY, "pod", 22, 15006)],
    ),
    "no loopback": ([], {}, [(PROXY, "loop2", 22, 15006), (PROXY, "loop", 22, "direct")]),
    "loopback in service-cidr": (
        ["-i", "127.0.0.0/8,::1/128"],
        {},
        [(APP, "loop2", 22, 15001), (APP, "loop", 22, "direct")],
    ),
    "drop-invalid": (["--drop-invalid"], {}, [(PEERS, "pod", 22, 15006), (APP, "far", 80, 15001)]),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World(*PORTS)
    yield made
    made.close()


@pytest.fixture(params=["nft", "legacy", "native"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def in_force(world: World, backend: str, argv: list[str], environ: dict[str, str]) -> config.InitConfig:
    def body() -> config.InitConfig:
        real = config.real_host()
        host = config.Host(
            lambda p: "nameserver 10.9.9.9\n" if p == "/etc/resolv.conf" else real.file(p), real.addresses
        )
        words = [*SIDECAR, *argv, "--dual-stack", *choice(backend)]
        wanted = config.parse(words, {"PATH": os.environ["PATH"], **environ}, host)
        apply.apply(wanted)
        assert apply.verify(wanted) == []
        return wanted

    return world.pod.call(body)


@pytest.mark.parametrize("name", FLAGS)
def test_what_a_flag_does(world: World, backend: str, name: str) -> None:
    argv, environ, cases = FLAGS[name]
    wanted = in_force(world, backend, argv, environ)
    wrong = []
    for family, places in PLACES.items():
        for who, place, port, expected in cases:
            if place in places:
                found = world.happens(who, places[place], port)
                if found != expected:
                    wrong.append((family, who, place, port, found))
    world.pod.call(lambda: apply.cleanup(wanted))
    assert wrong == []


@pytest.mark.parametrize("host", [FAR, FAR6])
def test_dns_over_udp(world: World, backend: str, host: str) -> None:
    wanted = in_force(world, backend, ["--redirect-dns", "--capture-all-dns"], {})
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with world.pod.socket(kind, socket.SOCK_DGRAM, *PROXY) as agent, world.peer.socket(kind, socket.SOCK_DGRAM) as far:
        agent.bind(("::1" if ":" in host else "127.0.0.1", 15053))
        far.bind((host, 53))
        for uid, server in ((1000, agent), (1337, far)):
            with world.pod.socket(kind, socket.SOCK_DGRAM, uid, uid) as client:
                client.settimeout(5)
                server.settimeout(5)
                client.sendto(b"question", (host, 53))
                question, who = server.recvfrom(64)
                server.sendto(b"answer to " + question, who)
                answer, source = client.recvfrom(64)
                assert (answer, source[:2]) == (b"answer to question", (host, 53))
    world.pod.call(lambda: apply.cleanup(wanted))


def test_a_packet_of_no_connection_is_dropped(world: World, backend: str) -> None:
    """Flags that no connection uses make a packet invalid; the counter of the dropping rule tells that it met it."""
    wanted = in_force(world, backend, ["--drop-invalid"], {})
    flags = 0x07  # SYN, FIN and RST at once
    tcp = struct.pack("!HHIIBBHHH", 4321, 8080, 1, 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = socket.inet_aton(PEER) + socket.inet_aton(POD) + struct.pack("!BBH", 0, 6, len(tcp)) + tcp
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + tcp[18:]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as s:
            s.sendto(tcp, (POD, 0))

    world.peer.call(send)
    listing = {"native": "nft list chain inet istio-proxy-mangle istio-drop"}.get(
        backend, f"iptables-{backend}-save -c -t mangle"
    )
    lines = [x for x in world.pod.call(lambda: sh(listing)).splitlines() if "-A ISTIO_DROP" in x or "counter" in x]
    assert len(lines) == 1
    assert "[1:40]" in lines[0] or "packets 1 " in lines[0]
    world.pod.call(lambda: apply.cleanup(wanted))
