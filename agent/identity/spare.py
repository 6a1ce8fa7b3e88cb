"""A private key made ahead of need: renewal after an outage must not wait for RSA primes."""

import asyncio
from concurrent.futures import Future

from agent.config import IdentityConfig
from agent.identity import keys

IDLE = 5.0  # seconds after a key was taken: by then Envoy has its certificate and nobody waits for the CPU


class KeySupply:
    """Hands out each key once. `first` is a key that was started before the loop existed."""

    def __init__(self, config: IdentityConfig, first: "Future[bytes] | None" = None, idle: float = IDLE) -> None:
        self._config = config
        self._next = first
        self._idle = idle
        self._taken = asyncio.Event()

    @property
    def ready(self) -> bool:
        """A key is there or being made."""
        return self._next is not None

    async def take(self) -> bytes:
        """A fresh key as PEM: the spare one, else one made now, off the loop."""
        spare, self._next = self._next, None
        self._taken.set()
        if spare is not None:
            return await asyncio.wrap_future(spare)
        return await asyncio.to_thread(keys.generate, self._config)

    async def run(self) -> None:
        """Make the next spare in quiet moments, until cancelled. ECDSA keys take no time: none is kept in memory."""
        while not self._config.ecdsa:
            await self._taken.wait()
            self._taken.clear()
            await asyncio.sleep(self._idle)
            if self._next is None:
                self._next = keys.pregenerate(self._config)
        await asyncio.get_running_loop().create_future()
