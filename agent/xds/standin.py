"""Stands in for the control plane on one Envoy stream, from the cache, until the real one answers."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from agent import logs
from agent.xds.keeper import Keeper
from agent.xds.replay import Replay, Served
from agent.xds.slices import Asked
from agent.xds.wire import Flavour

log = logs.scope("xdsproxy")


class StandIn:
    """Remembers what Envoy asks, so that it can begin at any time; `run` sends, `over` ends it for good."""

    def __init__(self, keeper: Keeper, flavour: Flavour, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._keeper = keeper
        self._flavour = flavour
        self._send = send
        self._asked: list[Asked] | None = []  # until it begins or is over
        self._replay: Replay | None = None
        self._due: deque[Served] = deque()
        self._filled = asyncio.Event()

    @property
    def committed(self) -> bool:
        """Whether Envoy has something that the control plane does not know of."""
        return self._replay is not None and self._replay.committed

    def begin(self, cause: str) -> bool:
        """Serve what Envoy has asked so far and will ask, if there is anything to serve it from."""
        if self._replay is None and self._asked is not None and self._keeper.usable(self._flavour):
            self._keeper.stale(cause)
            self._replay = Replay(self._keeper.cache, self._flavour)
            self._queue(self._replay.begin(self._asked))
            self._asked = None
        return self._replay is not None

    def request(self, asked: Asked) -> None:
        """Envoy asks or answers."""
        if self._replay is not None:
            if self._keeper.usable(self._flavour):
                self._queue(self._replay.request(asked))
        elif self._asked is not None:
            self._asked.append(asked)

    def over(self) -> None:
        """The control plane answers."""
        self._asked = self._replay = None
        self._due.clear()

    async def run(self) -> None:
        """Send what is due, in order, until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._due:
                served = self._due.popleft()
                log.debug("%d resources of type %s from the cache", served.resources, served.type_url)
                frame = served.frame
                del served
                await self._send(frame)
                del frame

    def _queue(self, served: list[Served]) -> None:
        self._due.extend(served)
        if self._due:
            self._filled.set()
