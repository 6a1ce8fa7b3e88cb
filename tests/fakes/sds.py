"""A real SDS server that hands one fixed workload certificate to a real Envoy."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from agent.protos import secret_pb2, xds_pb2

METHOD = "envoy.service.secret.v3.SecretDiscoveryService"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@contextmanager
def serving(path: Path, key: bytes, chain: bytes, root: bytes) -> Iterator[None]:
    """Answer every request for `default` and `ROOTCA` on the unix socket `path`."""

    def secret(name: str) -> bytes:
        message = secret_pb2.Secret(name=name)
        if name == "ROOTCA":
            message.validation_context.trusted_ca.inline_bytes = root
        else:
            message.tls_certificate.certificate_chain.inline_bytes = chain
            message.tls_certificate.private_key.inline_bytes = key
        return message.SerializeToString()

    def stream(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        for raw in requests:
            request = xds_pb2.Request.FromString(raw)
            if request.response_nonce:
                continue
            response = xds_pb2.Response(version_info="1", nonce="1", type_url=SECRET)
            for name in request.resource_names:
                response.resources.add(type_url=SECRET, value=secret(name))
            yield response.SerializeToString()

    with ThreadPoolExecutor(max_workers=16) as pool:
        server = grpc.server(pool)
        handlers = {"StreamSecrets": grpc.stream_stream_rpc_method_handler(stream)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD, handlers),))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            yield
        finally:
            server.stop(grace=0).wait()
