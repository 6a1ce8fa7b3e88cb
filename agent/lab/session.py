"""What one ADS stream is subscribed to and what it must be sent: both flavours, no I/O.

Protocol: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PREFIX = "type.googleapis.com/"
CDS = PREFIX + "envoy.config.cluster.v3.Cluster"
EDS = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = PREFIX + "envoy.config.listener.v3.Listener"
RDS = PREFIX + "envoy.config.route.v3.RouteConfiguration"
NDS = PREFIX + "istio.networking.nds.v1.NameTable"
PUSH_ORDER = (CDS, EDS, LDS, RDS, NDS)  # make before break
WILDCARD_TYPES = frozenset((CDS, LDS, NDS))  # an empty first subscription means everything


@dataclass(frozen=True, slots=True)
class Resource:
    """One serialized resource; `version` changes exactly when `body` does."""

    name: str
    version: str
    body: bytes = field(repr=False)


Snapshot = Mapping[str, Mapping[str, Resource]]  # type URL → name → resource


def resource(name: str, body: bytes) -> Resource:
    """A resource whose version is its content, so that a restarted control plane recognises what clients hold."""
    return Resource(name, hashlib.sha256(body).hexdigest()[:16], body)


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = field(default_factory=dict)  # name → version that the client holds
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StateRequest:
    type_url: str
    names: tuple[str, ...] = ()
    version: str = ""
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """Send this. State of the world: `removed` is empty and `resources` is everything the stream wants of the type."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Tell people what the client answered: ack, nack, stale (an old nonce) or unserved (a type that nobody serves)."""

    kind: str
    type_url: str
    nonce: str
    error: str = ""


Action = Push | Verdict


def digest(resources: Iterable[Resource]) -> str:
    """One version for a set of resources, independent of their order."""
    lines = sorted(f"{r.name}\n{r.version}\n" for r in resources)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def starts_wild(url: str, names: tuple[str, ...]) -> bool:
    return "*" in names or (not names and url in WILDCARD_TYPES)


def verdict_of(url: str, nonce: str, error: str | None, known: bool) -> Verdict:
    kind = "stale" if not known else "ack" if error is None else "nack"
    return Verdict(kind, url, nonce, error or "")


def clusters_in(actions: list[Action]) -> set[str]:
    """An updated cluster warms until it gets endpoints, but Envoy does not ask again for names that it already watches:
    the endpoints of every cluster sent must follow, changed or not."""
    return {r.name for a in actions if isinstance(a, Push) and a.type_url == CDS for r in a.resources}
