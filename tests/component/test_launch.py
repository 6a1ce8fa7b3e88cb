"""Envoy is restarted from a process full of gRPC threads: the fork must not hurt either side."""

import os
import subprocess
import sys

SPAWNS = """
import asyncio
import grpc
from agent.config import EnvoyConfig
from agent.envoy.launch import spawn

CONFIG = EnvoyConfig(True, "/bin/true", "", "", 1, "", 1, 1)


async def echo(requests, context):
    async for message in requests:
        yield message


async def traffic(channel, seen):
    call = channel.stream_stream("/x.Y/Z")()
    while True:
        await call.write(b"x" * 10000)
        seen.append(len(await call.read()))


async def main():
    server = grpc.aio.server()
    methods = {"Z": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.Y", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel, seen = grpc.aio.insecure_channel(f"127.0.0.1:{port}"), []
    tasks = [asyncio.create_task(traffic(channel, seen)) for _ in range(4)]
    while not seen:
        await asyncio.sleep(0.01)
    for _ in range(100):
        envoy = spawn(CONFIG, [], {})
        while True:
            await asyncio.sleep(0)
            try:
                status = envoy.reap(0)
            except TimeoutError:
                continue
            break
        assert status == 0, status
    before = len(seen)
    while len(seen) == before:
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await channel.close()
    await server.stop(None)


asyncio.run(main())
"""


def test_a_hundred_starts_between_streams() -> None:
    # What agent/__main__.py sets before gRPC is imported; with the default most children die of SIGSEGV before exec.
    environ = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
    done = subprocess.run([sys.executable, "-c", SPAWNS], env=environ, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
