"""Two networks with a cable between them: a pod's, with its application, and istiod's, with what pods call."""

from __future__ import annotations

import http.client
import http.server
import os
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from agent.lab import nameserver
from agent.lab.mesh import Mesh, Mtls, parse
from agent.lab.resources import Node, snapshot
from agent.lab.session import CDS, EDS, Snapshot
from tests.fakes.istiod import Istiod
from tests.fakes.netns import Namespace

IP, ISTIOD_IP, VIP = "10.79.0.11", "10.79.0.2", "10.96.0.2"
ISTIOD = "istiod.istio-system.svc.cluster.local"
# web runs in the pod; b answers in plain text beside istiod.
MESH = f"""\
trust_domain: cluster.local
mtls: PERMISSIVE
services:
  - {{name: web, namespace: demo, vip: 10.96.0.1, port: 80, target_port: 8080}}
  - {{name: b, namespace: demo, vip: {VIP}, port: 80, target_port: 8081}}
workloads:
  - {{name: web, namespace: demo, service_account: web, ip: {IP}, service: web}}
  - {{name: b, namespace: demo, service_account: b, ip: {ISTIOD_IP}, service: b}}
"""


def plain_outside(mesh: Mesh, node: Node) -> Snapshot:
    """Envoy's own listeners need certificates; b, which has no proxy, is called without."""
    plain = snapshot(replace(mesh, mtls=Mtls.DISABLE), node)
    return {**snapshot(mesh, node), CDS: plain[CDS], EDS: plain[EDS]}


class _Answer(http.server.BaseHTTPRequestHandler):
    """An application, with metrics."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"app_metric 1\n" if self.path == "/metrics" else b"ok\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Names(socketserver.BaseRequestHandler):
    """The cluster's own name server: it knows istiod, and nothing of the mesh."""

    def handle(self) -> None:
        packet, sock = self.request
        if (reply := nameserver.answer(packet, {ISTIOD: ISTIOD_IP})) is not None:
            sock.sendto(reply, self.client_address)


class Cluster:
    """A context manager. Pods close with it: they say how through `closing`."""

    def __init__(self, folder: Path, world: Callable[[Mesh, Node], Snapshot] = plain_outside) -> None:
        self.folder = folder
        self.closing = ExitStack()
        self.pod, self.infra = Namespace(), Namespace()
        self.closing.callback(self.pod.close)
        self.closing.callback(self.infra.close)
        self.pod.sh(f"ip link add eth0 type veth peer name eth0 netns /proc/{os.getpid()}/fd/{self.infra.fd}")
        for network, ip in ((self.pod, IP), (self.infra, ISTIOD_IP)):
            network.sh(f"ip addr add {ip}/24 dev eth0", "ip link set eth0 up")
        self.pod.sh(f"ip route add default via {ISTIOD_IP}")
        self.istiod = Istiod(parse(MESH), world)
        self.infra.call(lambda: self.istiod.start("0.0.0.0:15012"))
        self.closing.callback(self.istiod.stop)
        for network, port in ((self.pod, 8080), (self.pod, 9100), (self.infra, 8081)):
            self._serve(network, partial(http.server.ThreadingHTTPServer, ("0.0.0.0", port), _Answer))
        self._serve(self.infra, partial(socketserver.UDPServer, (ISTIOD_IP, 53), _Names))

    def _serve(self, network: Namespace, make: Callable[[], socketserver.BaseServer]) -> None:
        server = network.call(make)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.closing.callback(server.server_close)
        self.closing.callback(server.shutdown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.close()

    def probe(self, port: int, path: str) -> int:
        """The kubelet's: from outside, to the pod's address; the status, 0 if nobody answers."""
        return self.infra.call(lambda: fetch(IP, port, path, "GET"))[0]

    def resolve(self, name: str) -> str:
        """The IPv4 address that an application of the pod gets for a full name from the name server; "" if none."""

        def ask() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
                client.sendto(b"\x12\x34\x01\0\0\x01" + bytes(6) + labels + b"\0\0\x01\0\x01", (ISTIOD_IP, 53))
                return client.recv(512)

        answer = self.pod.call(ask)
        return socket.inet_ntoa(answer[-4:]) if answer[6:8] == b"\0\x01" else ""


def fetch(host: str, port: int, path: str, method: str) -> tuple[int, str]:
    """One request from the caller's network; (0, reason) if nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error) or type(error).__name__
    finally:
        connection.close()
