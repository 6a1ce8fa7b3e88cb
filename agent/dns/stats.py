"""Counters of the DNS proxy; the status page reads them."""

from bisect import bisect_left

BUCKETS = (0.001, 0.005, 0.01, 0.1, 1.0, 5.0)  # seconds, as istio's agent


class DnsStats:
    """Plain numbers that only grow. One event loop: no locks."""

    __slots__ = ("_buckets", "cached", "duration_sum", "requests", "upstream_failures", "upstream_requests")

    def __init__(self) -> None:
        self.requests = 0  # dns_requests_total: queries that were answered or refused
        self.cached = 0  # of these, from the answer cache
        self.upstream_requests = 0  # dns_upstream_requests_total: queries handed to the resolvers
        self.upstream_failures = 0  # dns_upstream_failures_total: queries that no resolver answered
        self.duration_sum = 0.0
        self._buckets = [0] * (len(BUCKETS) + 1)

    def observe(self, seconds: float) -> None:
        """One upstream answer took `seconds` (dns_upstream_request_duration_seconds)."""
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self.duration_sum += seconds

    @property
    def duration_count(self) -> int:
        return sum(self._buckets)

    def histogram(self) -> list[tuple[float, int]]:
        """(upper bound in seconds, how many took at most that long), the last bound is infinity."""
        out, total = [], 0
        for bound, count in zip((*BUCKETS, float("inf")), self._buckets, strict=True):
            total += count
            out.append((bound, total))
        return out
