"""What passed between Envoy and the control plane, in numbers: by type, by ending, by size. Kept while frames pass."""

from collections.abc import Mapping

from agent.record import fresh, state
from agent.xds.ending import ENVOY, PLANE, Ending, Kind
from agent.xds.wire import Head

MOST_TYPES = 64  # beyond them a control plane that invents types is counted under one name
OTHER = "other"
SIZES = (1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20, 100 << 20)  # bytes, upper bounds of the histogram


@state
class TypeTraffic:
    """One type of resource. Times are the caller's `now`; None = never."""

    pushes: int = 0
    bytes: int = 0
    last_bytes: int = 0
    version: str = ""  # of the last push
    nonce: str = ""
    pushed: float | None = None
    acked: float | None = None
    acked_version: str = ""
    nacked: float | None = None
    nacks: int = 0
    error: str = ""  # of the last NACK, until something later is accepted
    requests: int = 0


@state
class Ledger:
    """One agent since its start."""

    types: dict[str, TypeTraffic] = fresh(factory=dict)
    requests: int = 0  # sent up, our own included
    responses: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    heard: float | None = None  # when the control plane was last heard
    failures: int = 0  # connections that were not made
    terminations: dict[tuple[str, str], int] = fresh(factory=dict)  # (istiod or envoy, cancelled or error)
    sizes: list[int] = fresh(factory=lambda: [0] * (len(SIZES) + 1))

    def requested(self, head: Head, size: int, now: float) -> None:
        """Envoy asks, accepts or refuses."""
        self.requests += 1
        self.bytes_up += size
        one = self._of(head.type_url)
        one.requests += 1
        if head.error is not None:
            one.nacked, one.error = now, head.error
            one.nacks += 1
        elif head.nonce:
            one.acked, one.error = now, ""
            if head.nonce == one.nonce or not head.version:
                one.acked_version = one.version
            else:
                one.acked_version = head.version

    def own_request(self, size: int) -> None:
        """A request of the agent's own goes up."""
        self.requests += 1
        self.bytes_up += size

    def responded(self, head: Head, size: int, now: float) -> None:
        """The control plane sent something."""
        self.responses += 1
        self.bytes_down += size
        self.heard = now
        one = self._of(head.type_url)
        one.pushes += 1
        one.bytes += size
        one.last_bytes = size
        one.version, one.nonce, one.pushed = head.version, head.nonce, now
        place = 0
        while place < len(SIZES) and size > SIZES[place]:
            place += 1
        self.sizes[place] += 1

    def ended(self, ending: Ending) -> None:
        """A stream ended. Good ends are not counted, as with istio's agent."""
        side = {PLANE: "istiod", ENVOY: "envoy"}.get(ending.by)
        if ending.kind is not Kind.GRACEFUL and side:
            key = (side, "cancelled" if ending.kind is Kind.EXPECTED else "error")
            self.terminations[key] = self.terminations.get(key, 0) + 1

    def buckets(self) -> list[tuple[float, int]]:
        """(upper bound, how many pushes were at most that), the last bound infinite."""
        out, total = [], 0
        for bound, count in zip((*SIZES, float("inf")), self.sizes, strict=True):
            total += count
            out.append((float(bound), total))
        return out

    def nacks(self) -> Mapping[str, int]:
        """By short type name."""
        return {short(type_url): one.nacks for type_url, one in self.types.items() if one.nacks}

    def _of(self, type_url: str) -> TypeTraffic:
        one = self.types.get(type_url)
        if one is None:
            if len(self.types) >= MOST_TYPES:
                type_url = OTHER
            one = self.types.setdefault(type_url, TypeTraffic())
        return one


def short(type_url: str) -> str:
    """The message's name: `Cluster` of `type.googleapis.com/envoy.config.cluster.v3.Cluster`."""
    return type_url.rpartition(".")[2] or "none"
