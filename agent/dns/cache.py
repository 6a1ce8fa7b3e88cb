"""Bounded memory of what to do with a query, keyed by its bytes behind the id."""

from agent.dns.answer import Answer
from agent.dns.message import Query

ENTRIES, BYTES = 16384, 8 << 20

# The reply behind the id; or how to make it; or the query as read, which is to be forwarded.
Known = bytes | Answer | Query


class AnswerCache:
    """Forgets everything when it is full or the table changes: refilling is cheap."""

    __slots__ = ("_limit", "_weight", "_weight_limit", "get", "known")

    def __init__(self, entries: int = ENTRIES, weight: int = BYTES) -> None:
        self.known: dict[bytes, Known] = {}
        self.get = self.known.get
        self._weight = 0
        self._limit, self._weight_limit = entries, weight

    def __len__(self) -> int:
        return len(self.known)

    def clear(self) -> None:
        self.known.clear()
        self._weight = 0

    def add(self, key: bytes, value: Known) -> None:
        """Remember `value`; its answer in the form that is cheapest to repeat."""
        weight = len(key) + 300
        if type(value) is Answer:
            weight += value.weight
            fixed = value.fixed
            value = value if fixed is None else fixed
        if len(self.known) >= self._limit or self._weight + weight > self._weight_limit:
            self.clear()
        self.known[key] = value
        self._weight += weight
