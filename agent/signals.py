"""Signals before the event loop: the first process of a container has no default actions, so that none may be lost."""

import signal
from types import FrameType


class EndWanted(BaseException):
    """SIGTERM or SIGINT came while nothing had been started; `str()` is the signal's name."""


class EarlySignals:
    """Ends what waits until `keep`; from then on remembers, for the event loop to take over.

    SIGUSR1, which would end a process that is not the first of its container, is remembered from the beginning.
    """

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._kept = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._take)

    def keep(self) -> None:
        """From here on there is something to be taken down in order."""
        self._kept = True

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if not self._kept and number != signal.SIGUSR1:
            self._kept = True  # a second one shall not disturb the end
            raise EndWanted(signal.Signals(number).name)
        self.caught.append(number)
