"""Requests on their way to the control plane."""

import asyncio
from collections import deque
from collections.abc import Callable


class Outbox:
    """Nobody waits to put a frame: a reader of Envoy that waits for the control plane can deadlock with a control plane
    that waits for Envoy. Frames are kept until somebody answered, so that another endpoint can have them.

    `direct` takes a frame when nothing is before it, if it can at once; so most frames need nobody who waits in `get`.
    `size`: bytes held; whoever puts must look at it, because a control plane that takes nothing must not fill memory.
    """

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._unanswered: list[bytes] | None = []
        self._filled = asyncio.Event()
        self.direct: Callable[[bytes], bool] | None = None
        self.size = 0

    def put(self, frame: bytes) -> None:
        self.size += len(frame)
        if self.direct is not None and not self._waiting and self.direct(frame):
            self._taken(frame)
        else:
            self._waiting.append(frame)
            self._filled.set()

    async def get(self) -> bytes:
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        frame = self._waiting.popleft()
        self._taken(frame)
        return frame

    def _taken(self, frame: bytes) -> None:
        if self._unanswered is not None:
            self._unanswered.append(frame)
        else:
            self.size -= len(frame)

    @property
    def unanswered(self) -> bool:
        """Whether something was taken to which nobody has answered yet."""
        return bool(self._unanswered)

    def settle(self) -> None:
        """The control plane answered: nothing will have to be repeated."""
        self.size -= sum(map(len, self._unanswered or ()))
        self._unanswered = None

    def rewind(self) -> None:
        """Nobody answered: everything taken since the start comes again."""
        if self._unanswered:
            self._waiting.extendleft(reversed(self._unanswered))
            self._unanswered.clear()
            self._filled.set()

    def keep_first(self) -> None:
        """Whatever comes back needs no more than the first frame to show that it answers."""
        self.rewind()
        while len(self._waiting) > 1:
            self.size -= len(self._waiting.pop())

    def __len__(self) -> int:
        return len(self._waiting)
