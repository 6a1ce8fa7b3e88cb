"""One state-of-the-world ADS stream: what it is subscribed to, holds, and must be sent. No I/O."""

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.lab.session import (
    EDS,
    PUSH_ORDER,
    Action,
    Push,
    Snapshot,
    StateRequest,
    Verdict,
    clusters_in,
    digest,
    starts_wild,
    verdict_of,
)


@dataclass(slots=True)
class _StateWatch:
    wildcard: bool
    names: frozenset[str]
    held: dict[str, str] = field(default_factory=dict)  # name → version last sent
    nonce: str = ""


class StateSession:
    """The state-of-the-world flavour. `nonces` yields a fresh nonce at every call."""

    def __init__(self, nonces: Callable[[], str]) -> None:
        self._nonces = nonces
        self._watches: dict[str, _StateWatch] = {}

    def request(self, request: StateRequest, snapshot: Snapshot) -> list[Action]:
        """The client spoke: a subscription, or its answer to the push with `nonce`."""
        url = request.type_url
        if url not in snapshot:
            return [Verdict("unserved", url, request.nonce, request.error or "")]
        actions: list[Action] = []
        names = frozenset(n for n in request.names if n != "*")
        watch = self._watches.get(url)
        if watch is None or not request.nonce:
            # A new subscription or a reconnect: the version held may be another server's, so answer in full.
            watch = self._watches[url] = _StateWatch(starts_wild(url, request.names), names)
            actions += self._push(url, watch, snapshot, always=True)
        else:
            verdict = verdict_of(url, request.nonce, request.error, request.nonce == watch.nonce)
            actions.append(verdict)
            if verdict.kind != "stale":
                wildcard = "*" in request.names or (watch.wildcard and not names)
                more = bool(names - watch.names) or (wildcard and not watch.wildcard)
                watch.wildcard, watch.names = wildcard, names
                if more:
                    actions += self._push(url, watch, snapshot, always=True)
                elif not wildcard:
                    watch.held = {n: v for n, v in watch.held.items() if n in names}
        if EDS in self._watches and clusters_in(actions):
            actions += self._push(EDS, self._watches[EDS], snapshot, always=True)
        return actions

    def update(self, snapshot: Snapshot) -> list[Action]:
        """The world changed: the full state of every type of which anything wanted differs."""
        actions: list[Action] = []
        for url in PUSH_ORDER:
            if (watch := self._watches.get(url)) is not None:
                actions += self._push(url, watch, snapshot, always=url == EDS and bool(clusters_in(actions)))
        return actions

    def _push(self, url: str, watch: _StateWatch, snapshot: Snapshot, always: bool = False) -> list[Action]:
        have = snapshot.get(url, {})
        wanted = tuple(have[n] for n in sorted(have) if watch.wildcard or n in watch.names)
        versions = {r.name: r.version for r in wanted}
        if versions == watch.held and not always:
            return []
        watch.held = versions
        if not wanted and not watch.wildcard:  # nothing exists of what was named, and this flavour cannot say so
            return []
        watch.nonce = self._nonces()
        return [Push(url, watch.nonce, digest(wanted), wanted)]
