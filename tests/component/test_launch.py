"""Envoy is restarted from a process with live streams and busy threads: the fork must not hurt either side."""

import subprocess
import sys
from pathlib import Path

SPAWNS = """
import asyncio, hashlib, socket, sys, threading
from agent.config import EnvoyConfig
from agent.envoy.launch import spawn
from agent.rpc.sending import Limits
from agent.rpc.server import Server
from agent.rpc.client import attach

CONFIG = EnvoyConfig(True, "/bin/true", "", "", 1, "", 1, 1)
OVER = threading.Event()


def busy():
    # Without the interpreter's lock, in OpenSSL and in the allocator: what a fork must not be stopped by.
    while not OVER.is_set():
        hashlib.pbkdf2_hmac("sha256", b"x" * 1000, b"salt", 500)


async def echo(call):
    while (message := await call.read()) is not None:
        await call.write(message)


async def traffic(link, seen):
    call = link.call("/x.Y/Z")
    while True:
        await call.write(b"x" * 10000)
        seen.append(len(await call.read()))


async def main(path):
    server = Server({"/x.Y/Z": echo}, Limits())
    server.bind(path)
    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(server.run())]
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        sock.setblocking(False)
        async with attach(sock, "y", "test/1") as link:
            seen = []
            tasks += [group.create_task(traffic(link, seen)) for _ in range(4)]
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
    OVER.set()
    for thread in threads:
        thread.join()


asyncio.run(main(sys.argv[1]))
"""


def test_a_hundred_starts_between_streams(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SPAWNS, str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
