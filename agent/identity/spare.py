"""A private key made ahead of need: renewal after an outage must not wait for RSA primes."""

import asyncio
from concurrent.futures import Future

from agent.config import IdentityConfig
from agent.identity import keys, rotation


class KeySupply:
    """Hands out each key once. `first` is a key that was started before the loop existed."""

    def __init__(self, config: IdentityConfig, first: "Future[bytes] | None" = None) -> None:
        self._config = config
        self._next = first
        self._left = 0.0
        self._planned = asyncio.Event()

    @property
    def ready(self) -> bool:
        """A key is there or being made."""
        return self._next is not None

    async def take(self) -> bytes:
        """A fresh key as PEM: the spare one, else one made now, off the loop."""
        spare, self._next = self._next, None
        if spare is not None:
            return await asyncio.wrap_future(spare)
        return await asyncio.to_thread(keys.generate, self._config)

    def plan(self, left: float) -> None:
        """The next key will be taken in `left` seconds; the last word counts."""
        self._left = left
        self._planned.set()

    async def run(self) -> None:
        """Make each spare in time, until cancelled. ECDSA keys take no time: none is kept in memory."""
        while not self._config.ecdsa:
            await self._planned.wait()
            self._planned.clear()
            try:
                async with asyncio.timeout(rotation.spare(self._left)):
                    await self._planned.wait()
            except TimeoutError:
                if self._next is None:
                    self._next = keys.pregenerate(self._config)
        await asyncio.get_running_loop().create_future()
