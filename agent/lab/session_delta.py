"""One incremental ADS stream: what it is subscribed to, holds, and must be sent. No I/O."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from agent.lab.session import (
    CDS,
    EDS,
    PUSH_ORDER,
    Action,
    DeltaRequest,
    Push,
    Snapshot,
    Verdict,
    clusters_in,
    digest,
    starts_wild,
    verdict_of,
)


@dataclass(slots=True)
class _DeltaWatch:
    wildcard: bool
    names: set[str]
    held: dict[str, str]  # name → version sent; "" = told that it does not exist
    unanswered: set[str] = field(default_factory=set)  # nonces


class DeltaSession:
    """The incremental flavour. `nonces` yields a fresh nonce at every call."""

    def __init__(self, nonces: Callable[[], str]) -> None:
        self._nonces = nonces
        self._watches: dict[str, _DeltaWatch] = {}
        self._sent_clusters: set[str] = set()

    def request(self, request: DeltaRequest, snapshot: Snapshot) -> list[Action]:
        """The client spoke: acknowledge, reject, subscribe or unsubscribe, in any mix."""
        url = request.type_url
        if url not in snapshot:
            return [Verdict("unserved", url, request.nonce, request.error or "")]
        actions: list[Action] = []
        watch = self._watches.get(url)
        if watch is None:
            watch = self._watches[url] = self._open(request)
            actions += self._push(url, watch, snapshot, first=True)
        else:
            if request.nonce:
                actions.append(verdict_of(url, request.nonce, request.error, request.nonce in watch.unanswered))
                watch.unanswered.discard(request.nonce)
            if again := _resubscribe(watch, request):
                actions += self._push(url, watch, snapshot, again)
        if EDS in self._watches and (again := clusters_in(actions)):
            actions += self._push(EDS, self._watches[EDS], snapshot, again)
        return actions

    def update(self, snapshot: Snapshot) -> list[Action]:
        """The world changed: what differs from what the client holds, and nothing else."""
        actions: list[Action] = []
        for url in PUSH_ORDER:
            if (watch := self._watches.get(url)) is not None:
                actions += self._push(url, watch, snapshot, clusters_in(actions) if url == EDS else frozenset())
        return actions

    def _open(self, request: DeltaRequest) -> _DeltaWatch:
        wildcard = starts_wild(request.type_url, request.subscribe)
        names = {n for n in request.subscribe if n != "*"}
        # Endpoints held from a previous stream do not warm a cluster that this stream has sent anew.
        cold = self._sent_clusters if request.type_url == EDS else set()
        held = {n: v for n, v in request.initial.items() if (wildcard or n in names) and n not in cold}
        return _DeltaWatch(wildcard, names, held)

    def _push(
        self, url: str, watch: _DeltaWatch, snapshot: Snapshot, again: Set[str] = frozenset(), first: bool = False
    ) -> list[Action]:
        """What the client lacks, plus the names `again` in any case. `first`: an answer is due, even an empty one."""
        have = snapshot.get(url, {})
        wanted = have.values() if watch.wildcard else [have[n] for n in sorted(watch.names) if n in have]
        changed = tuple(r for r in wanted if r.name in again or watch.held.get(r.name) != r.version)
        gone = {n for n, v in watch.held.items() if v and n not in have}
        gone |= {n for n in watch.names if n not in have and (n in again or n not in watch.held)}
        if not (changed or gone or "*" in again or (first and (watch.wildcard or watch.names))):
            return []
        for r in changed:
            watch.held[r.name] = r.version
        for name in gone:
            watch.held.pop(name, None)
            if name in watch.names:
                watch.held[name] = ""
        if url == CDS:
            self._sent_clusters |= {r.name for r in changed}
        nonce = self._nonces()
        watch.unanswered.add(nonce)
        return [Push(url, nonce, digest(have.values()), changed, tuple(sorted(gone)))]


def _resubscribe(watch: _DeltaWatch, request: DeltaRequest) -> set[str]:
    """Apply both name lists; what is returned must be sent even if the client should hold it."""
    again: set[str] = set()
    for name in request.unsubscribe:
        if name == "*":
            watch.wildcard = False
            watch.held = {n: v for n, v in watch.held.items() if n in watch.names}
        elif name in watch.names:
            watch.names.discard(name)
            watch.held.pop(name, None)
            if watch.wildcard:  # still covered, but the client has just forgotten it
                again.add(name)
    for name in request.subscribe:
        if name == "*":
            watch.wildcard = True
        else:
            watch.names.add(name)
        again.add(name)
    return again
