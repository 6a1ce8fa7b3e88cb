"""What one SDS stream has asked for, what it was sent, and what it must be sent next. No I/O.

Both dialects share the idea of a version: resource name -> an opaque string that changes with the content, None while
the resource is not there yet. An answer that is owed waits until all of its resources exist; requests go before pushes.
"""

from collections.abc import Callable, Iterable

from agent.protos import xds_pb2
from agent.record import record

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
HEALTH_TYPE = "type.googleapis.com/istio.v1.HealthInformation"
# Envoy asks for one or two names; a client that asks for thousands is broken or hostile.
MAX_NAMES = 1000

Versions = Callable[[str], str | None]


@record
class Refusal:
    """The stream must end with this status (a name of gRPC's) and sentence."""

    code: str
    message: str


@record
class Rejected:
    """The client could not use what it was sent; log it, send nothing."""

    message: str


class Session:
    """One state-of-the-world stream (StreamSecrets)."""

    def __init__(self) -> None:
        self._node_seen = False
        self._names: tuple[str, ...] | None = None  # None: no subscription yet
        self._nonce = ""
        self._owed: tuple[str, ...] = ()
        self._sent: dict[str, str | None] = {}
        self.stale = 0  # requests that answered something older than the last response

    @property
    def names(self) -> tuple[str, ...]:
        return self._names or ()

    @property
    def owes(self) -> bool:
        """An answer waits for its resources; the next request must be read only after it was sent."""
        return bool(self._owed)

    def request(self, request: xds_pb2.Request) -> Refusal | Rejected | None:
        """Take one request; what to send, if anything, is then told by `due`. A Refusal changes nothing."""
        if not self._node_seen and request.type_url == HEALTH_TYPE:
            return None  # news of the workload, which some clients tell before they ask
        if not self._node_seen and not request.node.id:
            return Refusal("INVALID_ARGUMENT", "missing node information")
        if refusal := _foreign(request.type_url):
            return refusal
        self._node_seen = True
        if request.HasField("error_detail"):
            return Rejected(request.error_detail.message)
        names = tuple(dict.fromkeys(request.resource_names))
        if len(names) > MAX_NAMES:
            return _greedy(len(names))
        if not names:
            self._subscribe(None)
            self._owed = ()
        elif not request.response_nonce or self._names is None:
            self._subscribe(names)
            self._owed = names
        elif request.response_nonce == self._nonce:
            added = tuple(n for n in names if n not in self._names)
            self._subscribe(names)
            self._owed = tuple(n for n in self._owed if n in names) + added
        else:
            self.stale += 1
        return None

    def _subscribe(self, names: tuple[str, ...] | None) -> None:
        self._names = names
        self._sent = {n: v for n, v in self._sent.items() if n in (names or ())}

    def due(self, versions: Versions) -> tuple[str, ...]:
        """Names to send now in one response; empty: nothing."""
        if self._owed:
            return self._owed if all(versions(n) is not None for n in self._owed) else ()
        return _changed(self._sent, versions)[:1]  # a push carries one secret

    def sent(self, names: Iterable[str], nonce: str, versions: Versions) -> None:
        """`names` went out under `nonce` with their current versions."""
        self._owed = ()
        self._nonce = nonce
        self._sent.update((n, versions(n)) for n in names)


class DeltaSession:
    """One incremental stream (DeltaSecrets)."""

    def __init__(self) -> None:
        self._node_seen = False
        self._owed: dict[str, None] = {}  # ordered set
        self._sent: dict[str, str | None] = {}  # subscribed names; None: not sent yet
        self.stale = 0  # this dialect answers whatever the nonce

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sent)

    @property
    def owes(self) -> bool:
        return bool(self._owed)

    def request(self, request: xds_pb2.DeltaRequest) -> Refusal | Rejected | None:
        """Take one request; what to send, if anything, is then told by `due`. A Refusal changes nothing."""
        first = not self._node_seen
        if first and request.type_url == HEALTH_TYPE:
            return None
        if first and not request.node.id:
            return Refusal("INVALID_ARGUMENT", "missing node information")
        if refusal := _foreign(request.type_url):
            return refusal
        dropped, added = set(request.resource_names_unsubscribe), dict.fromkeys(request.resource_names_subscribe)
        if (count := len((self._sent.keys() - dropped) | added.keys())) > MAX_NAMES:
            return _greedy(count)
        self._node_seen = True
        for name in dropped:
            self._sent.pop(name, None)
            self._owed.pop(name, None)
        known = request.initial_resource_versions if first else {}
        for name in added:
            # Whoever subscribes again must be answered, unless a new stream says that it has this version already.
            self._sent[name] = known.get(name)
            if name not in known:
                self._owed[name] = None
        return Rejected(request.error_detail.message) if request.HasField("error_detail") else None

    def due(self, versions: Versions) -> tuple[str, ...]:
        """Names to send now in one response; empty: nothing."""
        ready = tuple(n for n in self._owed if versions(n) is not None)
        return ready or _changed({n: v for n, v in self._sent.items() if n not in self._owed}, versions)

    def sent(self, names: Iterable[str], nonce: str, versions: Versions) -> None:
        """`names` went out with their current versions; delta answers need no nonce to be matched."""
        for name in names:
            self._owed.pop(name, None)
            self._sent[name] = versions(name)


def _changed(sent: dict[str, str | None], versions: Versions) -> tuple[str, ...]:
    """Names whose content is another than the client has; content that is gone is no reason to send anything."""
    return tuple(n for n, had in sent.items() if (now := versions(n)) is not None and now != had)


def _greedy(count: int) -> Refusal:
    return Refusal("INVALID_ARGUMENT", f"{count} secrets on one stream; at most {MAX_NAMES} are served")


def _foreign(type_url: str) -> Refusal | None:
    if type_url in ("", SECRET_TYPE):
        return None
    return Refusal("INVALID_ARGUMENT", f"this server has secrets only, not {type_url[:200]}")
