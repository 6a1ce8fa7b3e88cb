"""The resolvers of resolv.conf and how they do: who is asked first, who stands back for a while."""

import random
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent import logs
from agent.events import Recorder

if TYPE_CHECKING:
    from agent.dns.upstream import Lane

log = logs.scope("dns")

DOWN_AFTER = 3  # failures in a row
PENALTY = 10.0  # seconds that a failed resolver stands behind the others


class Server:
    """One resolver and how it does."""

    __slots__ = ("address", "down_until", "failures", "family", "lane", "port", "text")

    def __init__(self, text: str, port: int) -> None:
        """`text` is a numeric address, with a scope if it is link-local."""
        found = socket.getaddrinfo(text, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        self.family, self.address, self.text, self.port = found[0], found[4], text, port
        self.failures = 0
        self.down_until = 0.0
        self.lane: Lane | None = None


class Pool:
    """Orders the resolvers and records when one goes down or comes back. `now` is loop time."""

    def __init__(self, servers: Sequence[str], port: int, recorder: Recorder) -> None:
        self._servers = [Server(text, port) for text in servers]
        self._recorder = recorder

    def order(self, now: float) -> list[Server]:
        """Random order, those that failed lately last."""
        if len(self._servers) < 2:
            return list(self._servers)
        servers = random.sample(self._servers, len(self._servers))
        servers.sort(key=lambda s: s.down_until > now)
        return servers

    def failed(self, server: Server, why: str, now: float) -> None:
        server.failures += 1
        server.down_until = now + PENALTY
        log.debug("resolver %s: %s", server.text, why)
        if server.failures == DOWN_AFTER:
            self._recorder.record("dns", "resolver-down", f"Resolver {server.text} fails: {why}", server=server.text)

    def worked(self, server: Server) -> None:
        if server.failures >= DOWN_AFTER:
            self._recorder.record("dns", "resolver-up", f"Resolver {server.text} answers again", server=server.text)
        server.failures, server.down_until = 0, 0.0
