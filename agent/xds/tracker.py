"""Watches one Envoy stream for what Envoy accepts, and tells the cache.

A response counts once Envoy acknowledges its nonce; until then only its bytes are held, and nothing is taken apart.
"""

from agent.record import fresh, state
from agent.xds.cache import WHOLE, Cache
from agent.xds.slices import Asked, split
from agent.xds.wire import EnvelopeError, Flavour, Frame, Head


@state
class _Watch:
    wildcard: bool
    names: set[str]
    held: frozenset[str] | None  # what Envoy held at the start; None once it has accepted something
    waiting: dict[str, Frame] = fresh(factory=dict)  # nonce to response, oldest first


class Tracker:
    """One stream. `limit`: bytes of unacknowledged responses above which the cache is switched off."""

    def __init__(self, cache: Cache, flavour: Flavour, limit: int) -> None:
        self._cache = cache
        self._flavour = flavour
        self._limit = limit
        self._watches: dict[str, _Watch] = {}
        self._waiting = 0

    def response(self, head: Head, frame: Frame) -> None:
        """A response goes to Envoy."""
        watch = self._watches.get(head.type_url)
        if watch is None or not head.nonce or not self._cache.wants(head.type_url):
            return
        self._settle(watch, head.nonce)
        watch.waiting[head.nonce] = frame
        self._waiting += len(frame)
        if self._waiting > self._limit:
            self._cache.switch_off(f"Envoy has left {self._waiting} bytes of configuration unanswered")
            self.close()

    def request(self, asked: Asked) -> int:
        """Envoy asks or answers; the bytes of the response that it has answered, if it was held until now."""
        if not self._cache.wants(asked.type_url):
            return 0
        watch = self._watches.get(asked.type_url)
        names = {name for name in asked.subscribe if name != "*"}
        if watch is None:
            wildcard = not asked.subscribe or "*" in asked.subscribe
            watch = self._watches[asked.type_url] = _Watch(wildcard, names, asked.initial)
        elif self._flavour is Flavour.DELTA:
            self._resubscribe(watch, asked, names)
        else:
            if not watch.wildcard:
                self._cache.forget(asked.type_url, watch.names - names)
            watch.names = names
        before = self._waiting
        if asked.nonce in watch.waiting:
            self._answered(watch, asked)
        return before - self._waiting

    def prune(self) -> None:
        """Let go of what the stream, which must have lasted for a while, never asked for."""
        for type_url in self._cache.types():
            watch = self._watches.get(type_url)
            if watch is None or not (watch.wildcard or type_url in WHOLE):
                self._cache.retain(type_url, watch.names if watch else frozenset())

    def close(self) -> None:
        """The stream is over; what was not acknowledged does not count."""
        self._watches.clear()
        self._waiting = 0

    def _resubscribe(self, watch: _Watch, asked: Asked, names: set[str]) -> None:
        gone = set(asked.unsubscribe) - names
        watch.wildcard = ("*" in asked.subscribe) or (watch.wildcard and "*" not in gone)
        watch.names = watch.names - gone | names
        if not watch.wildcard:
            self._cache.forget(asked.type_url, gone)

    def _answered(self, watch: _Watch, asked: Asked) -> None:
        if self._flavour is Flavour.SOTW:  # the answer to a state is the answer to those before it
            for nonce in tuple(watch.waiting):
                if nonce == asked.nonce:
                    break
                self._settle(watch, nonce)
        frame = self._settle(watch, asked.nonce)
        if asked.refused or frame is None:
            return
        try:
            parts = split(self._flavour, frame)
        except EnvelopeError:  # Envoy took it, so it is well-formed; if it is not after all, there is nothing to keep
            return
        if self._flavour is Flavour.SOTW:
            whole = watch.wildcard or asked.type_url in WHOLE
            self._cache.accepted_state(asked.type_url, parts, asked.subscribe, whole=whole)
            return
        held = watch.held if watch.wildcard else None
        watch.held = None
        self._cache.accepted_delta(asked.type_url, parts, watch.names, wildcard=watch.wildcard, held=held)

    def _settle(self, watch: _Watch, nonce: str) -> Frame | None:
        frame = watch.waiting.pop(nonce, None)
        if frame is not None:
            self._waiting -= len(frame)
        return frame
