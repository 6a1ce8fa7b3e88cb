"""What Envoy accepted last: per type a map from the name of each resource to its bytes, bounded as a whole.

State of the world is kept by name too: only clusters and listeners come complete, a response with endpoints or routes
often holds nothing but the one that changed, and the last response alone would lose the others.
"""

from collections.abc import Iterable, Set

from agent.record import fresh, state
from agent.xds.slices import Parts
from agent.xds.wire import LISTENER, TYPE, Flavour

CLUSTER = TYPE + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTE = TYPE + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret"

ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTE)  # make before break: what is referred to comes first
WHOLE = frozenset((CLUSTER, LISTENER))  # a state-of-the-world response holds all of these, always
NEVER = frozenset((SECRET,))  # not to be kept, whatever the limits


@state
class Kept:
    """One type. An empty slice stands for a name that Envoy asked for and was told does not exist."""

    flavour: Flavour
    entries: dict[str, bytes] = fresh(factory=dict)
    version: str = ""
    names: frozenset[str] = frozenset()  # what Envoy had asked for at `version`; state of the world
    missing: set[str] = fresh(factory=set)  # held by Envoy, never seen here: not fit to be served as a whole
    size: int = 0  # bytes of names and slices
    revision: int = 0  # grows with every change

    def put(self, name: str, entry: bytes) -> None:
        old = self.entries.get(name)
        self.size += len(entry) - len(old) if old is not None else len(entry) + len(name)
        self.entries[name] = entry

    def drop(self, name: str) -> None:
        entry = self.entries.pop(name, None)
        if entry is not None:
            self.size -= len(entry) + len(name)

    def retain(self, names: Set[str]) -> bool:
        """Forget everything else; whether there was anything."""
        others = [name for name in self.entries if name not in names]
        for name in others:
            self.drop(name)
        return bool(others)


class Cache:
    """All types. Above `limit` bytes it empties itself and stays off; `off` then says why."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._types: dict[str, Kept] = {}
        self.off = "" if limit else "XDS_CACHE_MAX_BYTES is 0"

    @property
    def size(self) -> int:
        return sum(kept.size for kept in self._types.values())

    def types(self) -> dict[str, Kept]:
        """By type URL. Not to be changed."""
        return self._types

    def get(self, flavour: Flavour, type_url: str) -> Kept | None:
        """What can be served of a type; the two flavours are not translated into each other."""
        kept = self._types.get(type_url)
        return kept if kept is not None and kept.flavour is flavour else None

    def wants(self, type_url: str) -> bool:
        return not self.off and type_url not in NEVER

    def accepted_delta(
        self, type_url: str, parts: Parts, named: Set[str], *, wildcard: bool, held: Set[str] | None = None
    ) -> None:
        """Envoy accepted a change. `named`: what it asks for by name; the removal of such a name is an answer, too.

        `wildcard`: it asks for everything else as well; `held`: what it held when it began to, all else is gone.
        """
        kept = self._open(Flavour.DELTA, type_url)
        if held is not None:
            kept.retain(held)
            kept.missing = set(held) - kept.entries.keys()
        for name, entry in parts.resources:
            kept.missing.discard(name)
            if wildcard or name in named:  # Envoy may have lost interest since it was sent
                kept.put(name, entry)
        for name in parts.removed:
            kept.missing.discard(name)
            if name in named:
                kept.put(name, b"")
            else:
                kept.drop(name)
        self._changed(kept, parts.version)

    def accepted_state(self, type_url: str, parts: Parts, names: Iterable[str], *, whole: bool) -> None:
        """Envoy accepted a state. `names`: what it asks for; `whole`: nothing but this exists of the type."""
        kept = self._open(Flavour.SOTW, type_url)
        kept.names = frozenset(names)
        if whole:
            kept.retain({name for name, _ in parts.resources})
        for name, entry in parts.resources:
            if whole or name in kept.names:
                kept.put(name, entry)
        self._changed(kept, parts.version)

    def settled(self, type_url: str, names: Iterable[str]) -> None:
        """Envoy has accepted the version that is kept, for these names; state of the world."""
        if kept := self.get(Flavour.SOTW, type_url):
            kept.names = frozenset(names)

    def forget(self, type_url: str, names: Iterable[str]) -> None:
        """Envoy does not want these any more."""
        kept = self._types.get(type_url)
        gone = [name for name in names if kept is not None and name in kept.entries]
        if kept is not None and gone:
            for name in gone:
                kept.drop(name)
            kept.revision += 1

    def retain(self, type_url: str, names: Set[str]) -> None:
        """Envoy wants no more than these."""
        kept = self._types.get(type_url)
        if kept is not None and kept.retain(names):
            kept.revision += 1

    def restore(self, type_url: str, kept: Kept) -> None:
        """Take over what an earlier process kept, unless there is something newer."""
        if self.wants(type_url) and type_url not in self._types:
            self._types[type_url] = kept
            self._check()

    def switch_off(self, reason: str) -> None:
        """For good; what was kept is freed."""
        self.off = reason
        self._types.clear()

    def _open(self, flavour: Flavour, type_url: str) -> Kept:
        kept = self.get(flavour, type_url)
        if kept is None:
            old = self._types.get(type_url)
            kept = self._types[type_url] = Kept(flavour, revision=old.revision if old else 0)
        return kept

    def _changed(self, kept: Kept, version: str) -> None:
        kept.version = version
        kept.revision += 1
        self._check()

    def _check(self) -> None:
        size = self.size
        if size > self._limit:
            self.switch_off(f"the configuration of {size} bytes is larger than XDS_CACHE_MAX_BYTES ({self._limit})")
