"""One secret stream as Envoy opens it, over a real unix socket."""

import asyncio
from typing import Any

import grpc
import grpc.aio

from agent.protos import secret_pb2, xds_pb2

SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService/"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
NODE = xds_pb2.Node(id="sidecar~10.0.0.1~app.demo~demo.svc.cluster.local")


def secrets(response: Any) -> dict[str, secret_pb2.Secret]:
    """By name, of a response of either dialect."""
    found = [secret_pb2.Secret.FromString(getattr(a, "resource", a).value) for a in response.resources]
    return {s.name: s for s in found}


def open_socket(path: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        f"unix:{path}",
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.default_authority", "localhost"),
        ],
    )


class SdsClient:
    """`async with SdsClient(path) as c`: `ask`, `receive`, `ack`. `beside`: whose connection it shares."""

    def __init__(self, path: str, method: str = "StreamSecrets", beside: "SdsClient | None" = None) -> None:
        self._channel = beside._channel if beside else open_socket(path)
        self._borrowed = beside is not None
        self._delta = method == "DeltaSecrets"
        self.call: Any = self._channel.stream_stream(SERVICE + method)()

    async def __aenter__(self) -> "SdsClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        if not self._borrowed:
            await self._channel.close()

    async def ask(
        self, *names: str, nonce: str = "", node: bool = True, error: str = "", type_url: str = SECRET
    ) -> None:
        request: Any = xds_pb2.Request(type_url=type_url, resource_names=names, response_nonce=nonce)
        if self._delta:
            request = xds_pb2.DeltaRequest(type_url=type_url, resource_names_subscribe=names, response_nonce=nonce)
        if node:
            request.node.CopyFrom(NODE)
        if error:
            request.error_detail.message = error
        await self.call.write(request.SerializeToString())

    async def send(self, message: Any) -> None:
        await self.call.write(message if isinstance(message, bytes) else message.SerializeToString())

    async def receive(self, timeout: float = 10.0) -> Any:
        """The next response. Raises grpc.aio.AioRpcError when the stream ended with an error."""
        raw = await asyncio.wait_for(self.call.read(), timeout)
        if raw is grpc.aio.EOF:
            raise EOFError(await self.call.code())
        return (xds_pb2.DeltaResponse if self._delta else xds_pb2.Response).FromString(raw)

    async def get(self, *names: str) -> dict[str, secret_pb2.Secret]:
        await self.ask(*names)
        return secrets(await self.receive())

    async def follow(self, name: str) -> secret_pb2.Secret:
        """The next secret, acknowledged as Envoy does."""
        response = await self.receive()
        await self.ask(name, nonce=response.nonce, node=False)
        return secrets(response)[name]

    async def silent(self, seconds: float = 0.3) -> bool:
        """Nothing arrives for that long; the stream cannot be used afterwards."""
        try:
            await self.receive(seconds)
        except TimeoutError:
            return True
        return False
