"""A control plane for one Envoy stream, made of what Envoy accepted last.

It answers as a real one would, with one exception that is its purpose: what Envoy says it holds stays as it is. That
is never older than the cache, so nothing is sent again or withdrawn, and what is not known is neither confirmed nor
denied: the subscription stays open.
"""

from collections.abc import Iterable

from agent.record import fresh, record, state
from agent.xds.cache import CLUSTER, ENDPOINTS, ORDER, Cache, Kept
from agent.xds.slices import Asked, response
from agent.xds.wire import Flavour


@record
class Served:
    """A response for Envoy: the frame, and what to tell people about it."""

    type_url: str
    frame: bytes
    resources: int


@state
class _Watch:
    wildcard: bool
    names: set[str]
    held: set[str]  # what Envoy has, sent by us or not
    sent: set[str] = fresh(factory=set)
    nonce: str = ""  # of our last response


@state
class Replay:
    """One stream. `request` gives the responses that are due, in their order."""

    cache: Cache
    flavour: Flavour
    _watches: dict[str, _Watch] = fresh(factory=dict)
    _sent: int = 0
    _reconnected: bool = False  # Envoy holds something, so it has been told what does not exist

    @property
    def committed(self) -> bool:
        """Whether Envoy was sent anything: from then on only Envoy itself knows what it holds."""
        return self._sent > 0

    def begin(self, requests: Iterable[Asked]) -> list[Served]:
        """Answer what Envoy has asked so far, make before break."""
        rank = {type_url: place for place, type_url in enumerate(ORDER)}
        return [
            served
            for asked in sorted(requests, key=lambda asked: rank.get(asked.type_url, len(rank)))
            for served in self.request(asked)
        ]

    def request(self, asked: Asked) -> list[Served]:
        if self.flavour is Flavour.DELTA:
            return self._delta(asked)
        return self._state(asked)

    # ---------------------------------------------------------------------------------------------------- delta

    def _delta(self, asked: Asked) -> list[Served]:
        watch = self._watches.get(asked.type_url)
        named = {name for name in asked.subscribe if name != "*"}
        again: set[str] = set()
        self._reconnected = self._reconnected or bool(asked.initial)
        if watch is None:
            wildcard = not asked.subscribe or "*" in asked.subscribe
            watch = self._watches[asked.type_url] = _Watch(wildcard, named, set(asked.initial))
            if asked.type_url == ENDPOINTS and CLUSTER in self._watches:
                # A cluster that was sent on this stream warms until its endpoints come, held or not.
                watch.held -= self._watches[CLUSTER].sent
        else:
            again = self._resubscribe(watch, asked, named)
        kept = self.cache.get(Flavour.DELTA, asked.type_url)
        if kept is None or (watch.wildcard and kept.missing):
            return []
        wanted = kept.entries.keys() if watch.wildcard else kept.entries.keys() & watch.names
        due = [name for name in wanted if name in again or self._lacks(watch, name, kept)]
        return self._send(asked.type_url, watch, kept, due)

    def _lacks(self, watch: _Watch, name: str, kept: Kept) -> bool:
        return name not in watch.held and bool(kept.entries[name] or not self._reconnected)

    def _resubscribe(self, watch: _Watch, asked: Asked, named: set[str]) -> set[str]:
        """What must be sent even if Envoy holds it: it has asked for it anew, or has forgotten it."""
        gone = set(asked.unsubscribe)
        forgotten = (gone & watch.names) if watch.wildcard else set()
        watch.held -= gone
        watch.names = watch.names - gone | named
        watch.wildcard = "*" in asked.subscribe or (watch.wildcard and "*" not in gone)
        return named | forgotten

    # -------------------------------------------------------------------------------------- state of the world

    def _state(self, asked: Asked) -> list[Served]:
        watch = self._watches.get(asked.type_url)
        names = {name for name in asked.subscribe if name != "*"}
        kept = self.cache.get(Flavour.SOTW, asked.type_url)
        if watch is None or not asked.nonce:
            wildcard = not asked.subscribe or "*" in asked.subscribe
            watch = self._watches[asked.type_url] = _Watch(wildcard, names, set())
            if kept is None or (asked.version and (wildcard or not (names - kept.names) & kept.entries.keys())):
                return []  # it has a version, so it has what it had asked for then
        else:
            if asked.nonce != watch.nonce:
                return []  # overtaken by a later response
            more = names - watch.names
            if not asked.refused:
                self.cache.settled(asked.type_url, names)
            watch.names = names
            if kept is None or watch.wildcard or not more & kept.entries.keys():
                return []
        due = [name for name in kept.entries if watch.wildcard or name in names]
        return self._send(asked.type_url, watch, kept, due)

    def _send(self, type_url: str, watch: _Watch, kept: Kept, due: list[str]) -> list[Served]:
        resources = [kept.entries[name] for name in due if kept.entries[name]]
        removed = [name for name in due if not kept.entries[name]]
        if not due:
            return []
        self._sent += 1
        watch.nonce = f"cached-{self._sent}"
        watch.held.update(due)
        watch.sent.update(due)
        frame = response(type_url, watch.nonce, kept.version, resources, removed)
        return [Served(type_url, frame, len(resources))]
