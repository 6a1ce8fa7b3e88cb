"""Two network namespaces with a cable between them: a pod with the ports of a proxy, and a peer."""

from __future__ import annotations

import os
import socket

from init import apply, config
from tests.fakes.netns import Namespace, original_destination

POD, PEER, FAR = "10.78.0.2", "10.78.0.1", "203.0.113.10"
POD6, PEER6, FAR6 = "fd78::2", "fd78::1", "2001:db8:ffff::10"


def choice(backend: str) -> list[str]:
    """The flags that ask for a backend: nft, legacy or native."""
    return ["--native-nftables"] if backend == "native" else ["--force-iptables-binary", backend]


class World:
    """A pod with a proxy's two ports and an application, and a peer that answers on every address of its own."""

    def __init__(self, *more: int) -> None:
        self.peer, self.pod = Namespace(), Namespace()
        self.listeners: dict[tuple[str, int], socket.socket] = {}
        self.open: list[socket.socket] = []
        self.pod.sh(f"ip link add eth0 type veth peer name eth0 netns /proc/{os.getpid()}/fd/{self.peer.fd}")
        for namespace, v4, v6 in ((self.pod, POD, POD6), (self.peer, PEER, PEER6)):
            up = f"ip addr add {v4}/24 dev eth0", f"ip addr add {v6}/64 dev eth0 nodad", "ip link set eth0 up"
            namespace.sh(*up)
        self.peer.sh(f"ip addr add {FAR}/32 dev lo", f"ip addr add {FAR6}/128 dev lo")
        self.pod.sh(f"ip route add default via {PEER}", f"ip -6 route add default via {PEER6}")
        for name, namespace, ports in (
            ("pod", self.pod, (15001, 15006, 8080, 15020, *more)),
            ("peer", self.peer, (80,)),
        ):
            for port in ports:
                self.listeners[name, port] = namespace.listen(port, transparent=port == 15006)

    def apply(self, backend: str, argv: list[str]) -> config.InitConfig:
        def body() -> config.InitConfig:
            environ = {"PATH": os.environ["PATH"]}
            wanted = config.parse([*argv, *choice(backend)], environ)
            apply.apply(wanted)
            return wanted

        return self.pod.call(body)

    def where(self, client: socket.socket) -> tuple[str, int, tuple[str, int] | None]:
        """Which listener took a connection that was just made, and where it was meant to go."""
        import select

        ready = select.select(list(self.listeners.values()), [], [], 5)[0]
        assert len(ready) == 1
        (name, port), listener = next((k, v) for k, v in self.listeners.items() if v is ready[0])
        server = listener.accept()[0]
        self.open += [client, server]
        return name, port, original_destination(server)

    def happens(self, who: tuple[int, int] | None, host: str, port: int, source: str = "") -> str | int:
        """What becomes of a connection of a user (uid, gid) of the pod, or of the peer: the port of the proxy that it
        was redirected to, or the words tproxied, direct, refused. A redirect to where it was going counts as direct."""
        try:
            client = self.pod.connect(host, port, *who, source) if who else self.peer.connect(host, port)
        except ConnectionRefusedError:
            return "refused"
        _, landed, meant = self.where(client)
        if landed == port:
            return "direct"
        return "tproxied" if meant is None else landed

    def pair(self, client: socket.socket) -> socket.socket:
        self.where(client)
        return self.open[-1]

    def hang_up(self, keep: int) -> None:
        """Close all connections but the first."""
        while len(self.open) > keep:
            self.open.pop().close()

    def close(self) -> None:
        for s in [*self.open, *self.listeners.values()]:
            s.close()
        self.pod.close()
        self.peer.close()
