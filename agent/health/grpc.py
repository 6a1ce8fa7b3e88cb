"""The grpc probe: one Check of grpc.health.v1 in plaintext; only SERVING is well."""

from agent.health.connect import connect
from agent.health.http import USER_AGENT
from agent.rpc.client import attach
from agent.rpc.status import Code, RpcError

CHECK = "/grpc.health.v1.Health/Check"
STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


async def probe(host: str, port: int, service: str, timeout: float) -> str:
    """Why the workload is not healthy, "" if it is. `timeout` in seconds becomes the call's deadline too.

    Raises OSError if there is no connection.
    """
    sock = await connect(host, port)
    async with attach(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", USER_AGENT) as link:
        try:
            answer = await link.unary(CHECK, request(service), timeout=timeout)
        except RpcError as e:
            if e.code is Code.UNIMPLEMENTED:
                return "the workload does not implement the gRPC health protocol"
            return f"gRPC probe failed with {e}"
    state = status(answer)
    return "" if state == 1 else f"gRPC probe: the service is {STATES.get(state, f'in state {state}')}"


def request(service: str) -> bytes:
    """HealthCheckRequest{service = 1}, whose service must be short."""
    name = service.encode()
    size = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 127 | 128, len(name) >> 7])
    return b"\x0a" + size + name if name else b""


def status(response: bytes) -> int:
    """HealthCheckResponse.status (1); 0 if it says nothing else, which is UNKNOWN."""
    return response[1] if len(response) == 2 and response[0] == 0x08 and response[1] < 0x80 else 0
