"""Asks the resolvers of resolv.conf for SRV records: UDP, TCP when an answer was cut short, server by server."""

import asyncio
import socket
from collections.abc import Callable, Sequence

from agent.errors import AttemptError
from agent.xds.srv import Record, SrvError, is_answer, question, records, truncated

PATIENCE = 2.0  # seconds per server and question
RESOLV_CONF = "/etc/resolv.conf"
PORT = 53

Server = tuple[str, int]


def read_resolv_conf(path: str = RESOLV_CONF) -> tuple[list[Server], list[str]]:
    """(servers, search domains); none where the file cannot be read."""
    servers: list[Server] = []
    search: list[str] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
    except OSError:
        return [], []
    for line in lines:
        word, *rest = line.split() or [""]
        if word == "nameserver" and rest:
            servers.append((rest[0], PORT))
        elif word in ("search", "domain"):
            search = [domain.rstrip(".") for domain in rest if domain.strip(".")]
    return servers[:3], search


async def look_up(
    name: str, configuration: Callable[[], tuple[Sequence[Server], Sequence[str]]] = read_resolv_conf
) -> list[Record]:
    """The SRV records of `name`: as it is, then in each search domain. Raises AttemptError(`lookup`), one sentence."""
    servers, search = configuration()
    if not servers:
        raise AttemptError("lookup", f"the SRV records of {name} cannot be asked for: no name server is configured")
    reason = "there are none"
    for full in [name] if name.endswith(".") else [name, *(f"{name}.{domain}" for domain in search)]:
        for server in servers:
            try:
                async with asyncio.timeout(PATIENCE):
                    found = await _ask(server, full)
            except TimeoutError:
                reason = f"{server[0]} does not answer"
                continue
            except (OSError, SrvError, asyncio.IncompleteReadError) as e:
                reason = f"{server[0]}: {(e.strerror if isinstance(e, OSError) else '') or e}"
                if "no such name" in reason:
                    break  # the next server would say the same
                continue
            if found:
                return found
            break
    raise AttemptError("lookup", f"no SRV record of {name} was found: {reason}")


async def _ask(server: Server, name: str) -> list[Record]:
    import secrets  # when it is needed: Envoy's first stream does not wait for it

    asked = question(name, secrets.randbelow(1 << 16))
    answer = await _udp(server, asked)
    if truncated(answer):
        answer = await _tcp(server, asked)
    return records(answer, asked)


async def _udp(server: Server, asked: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        await loop.sock_connect(sock, server)  # only that server's packets, from a port of its own
        await loop.sock_sendall(sock, asked)
        while not is_answer(answer := await loop.sock_recv(sock, 65535), asked):
            continue
        return answer


async def _tcp(server: Server, asked: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(asked).to_bytes(2, "big") + asked)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
