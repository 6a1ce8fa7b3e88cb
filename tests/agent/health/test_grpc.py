import asyncio

import grpc as grpcio
import grpc.aio
import pytest

from agent.health import grpc as probing
from agent.health.grpc import CHECK, request, status


def answering(reply):
    """What the probe says of a server whose Check answers `reply` (bytes) or fails with it (a status code)."""
    seen = []

    async def check(asked, context):
        seen.append((asked, dict(context.invocation_metadata())["user-agent"]))
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
    said, [(asked, agent)] = answering(b"\x08\x01")
    assert said == ""
    assert asked == b"\x0a\x03web"
    assert agent.startswith("istio-probe/1.0")


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


def test_messages():
    assert request("") == b""
    assert request("x" * 300) == b"\x0a\xac\x02" + b"x" * 300
    assert status(b"\x10\x01") == 0
