"""Gives memory back to the operating system after big pushes: the allocator keeps what was freed unless told not to."""

import asyncio
import ctypes

BIG = 1 << 20  # bytes relayed since the last trim that make one worthwhile
QUIET = 0.5  # seconds without another message
LATEST = 5.0  # seconds after which it happens even if messages keep coming

# glibc: one arena, because the tops of others are never trimmed (80 MB stayed after 20 pushes of 20 MB, with it 20 MB);
# fixed thresholds, because by default a freed big block makes the allocator keep blocks of that size from then on.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_TUNING = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 4 << 20), (_M_TRIM_THRESHOLD, 4 << 20))


def tune() -> None:
    """Set up the allocator of this process for few big messages among small ones. The earlier, the better."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for parameter, value in _TUNING:
            mallopt(parameter, value)


class HeapTrimmer:
    """`note` what passed through; `run` trims once things are quiet. Without glibc it does nothing."""

    def __init__(self) -> None:
        self._bytes = 0
        self._big = asyncio.Event()
        self.trims = 0

    def note(self, size: int) -> None:
        """`size` bytes were relayed."""
        self._bytes += size
        if self._bytes >= BIG:
            self._big.set()

    async def run(self) -> None:
        """Until cancelled; returns at once where there is nothing to trim with."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        clock = asyncio.get_running_loop().time
        while trim:
            await self._big.wait()
            deadline = clock() + LATEST
            seen = 0
            while seen != self._bytes and clock() < deadline:
                seen = self._bytes
                await asyncio.sleep(QUIET)
            self._bytes = 0
            self._big.clear()
            trim(0)
            self.trims += 1
