"""`Latest[T]`: one value, readable now or watchable; slow watchers skip versions, nothing queues."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The only link between components. One event loop: `set` is called on its thread, or before it runs."""

    __slots__ = ("_listeners", "_value", "_version", "_waiters")

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._listeners: list[Callable[[], None]] = []

    @property
    def value(self) -> T:
        return self._value

    @property
    def version(self) -> int:
        """Grows by one with every `set`; 0 = still the initial value."""
        return self._version

    def set(self, value: T) -> None:
        """Publish `value` and wake every watcher (also when it equals the old one: a renewed secret is news)."""
        self._value = value
        self._version += 1
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for listener in self._listeners:
            listener()

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """For what cannot wait for the loop's next turn: while the block runs, `set` calls `listener` itself.

        It must be quick and must not raise.
        """
        self._listeners = [*self._listeners, listener]
        try:
            yield
        finally:
            self._listeners = [known for known in self._listeners if known is not listener]

    async def changed(self, seen: int) -> int:
        """Return once `version` differs from `seen`; the return value is the new version."""
        while self._version == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self._version

    async def watch(self) -> AsyncIterator[T]:
        """Yield the current value, then every later one that this watcher is fast enough to see."""
        seen = self._version
        yield self._value
        while True:
            seen = await self.changed(seen)
            yield self._value

    async def until(self, wanted: Callable[[T], bool]) -> T:
        """The first value, from now on and including the current one, for which `wanted` is true."""
        while not wanted(self._value):
            await self.changed(self._version)
        return self._value

    def __repr__(self) -> str:
        return f"Latest(version={self._version}, watchers={len(self._waiters)})"
