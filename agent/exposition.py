"""Which numbers of which component stand on the metrics page, under istio's names."""

import time
from typing import TYPE_CHECKING

from agent.latest import Latest
from agent.model import EnvoyState, Secret
from agent.status.metrics import Registry, Sample

if TYPE_CHECKING:
    from agent.dns.stats import DnsStats


def certificate(registry: Registry, secret: Latest[Secret | None]) -> None:
    """Seconds until the certificate in use expires, negative afterwards; no sample before the first one."""

    def left() -> list[Sample]:
        now = secret.value
        return [] if now is None else [({"resource_name": "default"}, now.not_after - time.time())]

    what = "Time in seconds until the certificate expires; negative if it has expired."
    registry.computed("cert_expiry_seconds", "gauge", what, left)


def envoy(registry: Registry, state: Latest[EnvoyState]) -> None:
    """Crashes and restarts in place since the agent started; remora's own."""
    for name, what in (
        ("crashes", "Ends of Envoy that nobody asked for."),
        ("restarts", "Restarts of Envoy in place."),
    ):

        def count(name: str = name) -> list[Sample]:
            return [({}, float(getattr(state.value, name)))]

        registry.computed(f"envoy_{name}_total", "counter", what, count)


def dns(registry: Registry, stats: "DnsStats") -> None:
    """Queries, and what the resolvers made of those that were forwarded."""
    names = {
        "requests": "DNS queries answered or refused.",
        "upstream_requests": "DNS queries handed to the resolvers.",
        "upstream_failures": "DNS queries that no resolver answered.",
    }
    for name, what in names.items():

        def count(name: str = name) -> list[Sample]:
            value = getattr(stats, name)
            return [({}, float(value))] if value else []

        registry.computed(f"dns_{name}_total", "counter", what, count)
    registry.histogram(
        "dns_upstream_request_duration_seconds",
        "Time that the resolvers took to answer.",
        lambda: (stats.histogram(), stats.duration_sum),
    )
