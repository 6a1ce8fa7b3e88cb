"""A small real istiod: certificates and (delta) discovery on one port behind one server certificate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from agent.lab.envelope import decode_delta, encode_delta
from agent.lab.mesh import Mesh
from agent.lab.resources import Node, snapshot
from agent.lab.session import Push, Snapshot
from agent.lab.session_delta import DeltaSession
from agent.protos import ca_pb2
from tests.fakes.ca import METHOD, SERVER_NAME, Call, Root

DISCOVERY = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class Istiod:
    """`calls`: every CSR; `nodes`: the id on every stream; `nacks`: what Envoy refused. `start` in the network of its
    address."""

    def __init__(self, mesh: Mesh, world: Callable[[Mesh, Node], Snapshot] = snapshot) -> None:
        self.root = Root()
        self.calls: list[Call] = []
        self.nodes: list[str] = []
        self.nacks: list[str] = []
        self._mesh, self._world = mesh, world
        self._nonces = map(str, itertools.count(1))
        self._server: Any = None

    def start(self, address: str) -> None:
        sign = grpc.unary_unary_rpc_method_handler(self._sign)
        discover = grpc.stream_stream_rpc_method_handler(self._discover)

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return {METHOD: sign, DISCOVERY: discover}.get(details.method)

        # Every stream holds a thread for as long as it is open.
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16), handlers=[Handlers()], options=[("grpc.so_reuseport", 0)]
        )
        self._server.add_secure_port(address, grpc.ssl_server_credentials([self.root.server(SERVER_NAME)]))
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait(5)

    def _sign(self, raw: bytes, context: Any) -> bytes:
        call = Call(ca_pb2.CertificateRequest.FromString(raw), dict(context.invocation_metadata()), "")
        self.calls.append(call)
        csr = call.csr
        names = list(next(iter(csr.extensions)).value)
        chain = [self.root.issue(csr.public_key(), names).decode(), self.root.pem.decode()]
        return ca_pb2.CertificateResponse(cert_chain=chain).SerializeToString()

    def _discover(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        session = DeltaSession(lambda: next(self._nonces))
        resources: Snapshot = {}
        for raw in requests:
            node, request = decode_delta(raw)
            if not resources:
                self.nodes.append(node)
                resources = self._world(self._mesh, Node.parse(node))
            for action in session.request(request, resources):
                if isinstance(action, Push):
                    yield encode_delta(action)
                elif action.kind == "nack":
                    self.nacks.append(action.error)
