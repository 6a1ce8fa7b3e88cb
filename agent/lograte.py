"""How often the same log line may appear: the rest is counted, and told in one line when its minute is over. Pure."""

from collections.abc import Iterator

WINDOW = 60.0  # seconds
Line = tuple[str, int, str]  # logger, level, message
REMEMBERED = 512  # different lines; beyond it the oldest is forgotten


class _Seen:
    __slots__ = ("count", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0


class RateLimit:
    """`limit` equal lines a minute pass. `now`: seconds of a clock that never goes back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._seen: dict[Line, _Seen] = {}  # in the order of `since`

    def admit(self, line: Line, now: float) -> bool:
        """Whether this one is shown."""
        seen = self._seen.get(line)
        if seen is None:
            if len(self._seen) >= REMEMBERED:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[line] = _Seen(now)
        seen.count += 1
        return seen.count <= self.limit

    def over(self, now: float, *, everything: bool = False) -> Iterator[tuple[Line, int]]:
        """(line, how many were held back) of every line whose minute is over (or of all); they start anew."""
        while self._seen:
            line, seen = next(iter(self._seen.items()))
            if now - seen.since < WINDOW and not everything:
                return
            del self._seen[line]
            if seen.count > self.limit:
                yield line, seen.count - self.limit
