"""When to look at mounted files: as soon as the kernel tells of a change, and now and then whatever it tells."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from agent.sds.files import FileSecrets
from agent.sds.watch import Watcher

THOROUGH = 5.0  # seconds between two comparisons of content: some file systems tell nothing
POLL = 0.5  # seconds between two looks where a directory cannot be watched
PATIENCE = 10.0  # seconds after a change in which a pair that does not match is read again and again
SETTLE = 0.1  # seconds at most that a change may settle before it is looked at


class Source(Protocol):
    """What is followed: a store, or files alone."""

    @property
    def files(self) -> FileSecrets: ...
    def paths(self) -> Iterable[str]: ...
    def refresh(self, thorough: bool = False) -> bool: ...


class Follower:
    """Calls `notify` after each look that found new content. `debounce` (seconds, FILE_DEBOUNCE_DURATION): the first
    pause before files that are not usable are read again; the next ones are twice as long each.
    """

    def __init__(self, source: Source, debounce: float, notify: Callable[[], None]) -> None:
        self._source = source
        self._debounce = max(0.001, debounce)
        self._notify = notify
        self._watcher: Watcher | None = None

    @property
    def failures(self) -> int:
        """Directories that could not be watched, counted at every try."""
        return self._watcher.failures if self._watcher else 0

    async def run(self) -> None:
        """Until cancelled."""
        touched = self._source.files.touched
        compared = time.monotonic()
        retry = self._debounce
        with Watcher(touched) as self._watcher:
            while True:
                touched.clear()
                watched = self._watcher.follow(self._source.paths())
                thorough = time.monotonic() - compared >= THOROUGH
                if thorough:
                    compared = time.monotonic()
                if self._source.refresh(thorough):
                    self._notify()
                pause = THOROUGH if watched else POLL
                if self._source.files.unsettled and retry < PATIENCE:
                    pause = min(pause, retry)
                try:
                    async with asyncio.timeout(pause):
                        await touched.wait()
                except TimeoutError:
                    retry *= 2
                else:
                    await asyncio.sleep(min(self._debounce, SETTLE))
                    retry = self._debounce
