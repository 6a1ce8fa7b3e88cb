import asyncio
import re

import grpc as grpcio
import grpc.aio
import pytest

from agent.health import grpc as probing
from agent.health.grpc import CHECK, request, status


def answering(reply):
    """What the probe says of a server whose Check answers `reply` (bytes) or fails with it (a status code)."""
    seen = []

    async def check(asked, context):
        metadata = dict(context.invocation_metadata())
        seen.append((asked, metadata["user-agent"], context.peer(), context.time_remaining()))
        if isinstance(reply, bytes):
            return reply
        raise await context.abort(reply, "why")

    class Handler(grpcio.GenericRpcHandler):
        def service(self, details):
            return grpcio.unary_unary_rpc_method_handler(check) if details.method == CHECK else None

    async def go():
        server = grpcio.aio.server(handlers=(Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            return await probing.probe("127.0.0.1", port, "web", 5)
        finally:
            await server.stop(0)

    return asyncio.run(go()), seen


def test_serving():
    said, [(asked, agent, peer, left)] = answering(b"\x08\x01")
    assert said == ""
    assert asked == b"\x0a\x03web"
    assert agent.startswith("istio-probe/1.0")
    assert peer.startswith("ipv4:127.0.0.6:"), "the redirect rules know the proxy's own address"
    assert 0 < left <= 5, "the server knows how long anybody waits"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"", "gRPC probe: the service is UNKNOWN"),
        (b"\x08\x02", "gRPC probe: the service is NOT_SERVING"),
        (b"\x08\x07", "gRPC probe: the service is in state 7"),
        (grpcio.StatusCode.NOT_FOUND, "gRPC probe failed with NOT_FOUND: why"),
        (grpcio.StatusCode.UNIMPLEMENTED, "the workload does not implement the gRPC health protocol"),
    ],
)
def test_not_serving(reply, said):
    assert answering(reply)[0] == said


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silence", "HTTP/1"])
def test_something_else_on_the_port(greeting):
    async def serve(reader, writer):
        writer.write(greeting)
        await reader.read()
        writer.close()

    async def go():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            return await probing.probe("127.0.0.1", server.sockets[0].getsockname()[1], "", 0.2)

    expected = "INTERNAL|UNAVAILABLE" if greeting else "DEADLINE_EXCEEDED: no answer within 0.2 s"
    assert re.match(f"gRPC probe failed with ({expected})", asyncio.run(go()))


def test_messages():
    assert request("") == b""
    assert request("x" * 300) == b"\x0a\xac\x02" + b"x" * 300
    assert status(b"\x10\x01") == 0
