"""Which numbers of which component stand on the metrics page, under istio's names."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyState
from agent.status.metrics import Registry, Sample

if TYPE_CHECKING:
    from agent.dns.stats import DnsStats
    from agent.sds.server import SdsServer
    from agent.xds.keeper import CacheReport
    from agent.xds.ledger import Ledger


def sds(registry: Registry, server: "SdsServer") -> None:
    """The secret server: what Envoy rejected, and trouble with mounted files."""
    kind = {"type": "sds"}
    ledger = server.ledger
    rows: list[tuple[str, str, Callable[[], Sample]]] = [
        (
            "num_file_watcher_failures_total",
            "Directories of mounted certificates that could not be watched.",
            lambda: ({}, server.watch_failures),
        ),
        (
            "num_file_secret_failures_total",
            "Mounted certificate files that were found unusable.",
            lambda: ({}, server.file_failures),
        ),
        ("pilot_total_xds_rejects", "Secrets that Envoy rejected.", lambda: (kind, ledger.rejects)),
        ("pilot_total_xds_internal_errors", "Secrets that could not be served.", lambda: ({}, ledger.errors)),
        (
            "pilot_xds_expired_nonce",
            "Requests for secrets whose nonce is not the last one.",
            lambda: (kind, ledger.stale),
        ),
        (
            "pilot_xds_write_timeout",
            "Secrets that Envoy did not take within 30 seconds.",
            lambda: ({}, ledger.timeouts),
        ),
        ("pilot_xds_recv_max", "Bytes of the largest request for secrets.", lambda: ({}, ledger.largest)),
    ]
    for name, what, read in rows:

        def samples(read: Callable[[], Sample] = read) -> list[Sample]:
            sample = read()
            return [sample] if sample[1] else []

        registry.computed(name, "gauge" if name.endswith("_max") else "counter", what, samples)
    registry.histogram(
        "pilot_xds_send_time",
        "Seconds until a secret was on its way to Envoy.",
        lambda: (ledger.send_times(), ledger.send_seconds),
    )
    registry.computed("sds_streams", "gauge", "Secret streams that Envoy has open.", lambda: [({}, server.streams)])


def events(registry: Registry, recorder: Recorder) -> None:
    """What the flight recorder had no room for."""
    what = "Events of the flight recorder that made room for newer ones, by component."
    registry.computed(
        "events_dropped_total",
        "counter",
        what,
        lambda: [({"component": name}, count) for name, count in recorder.dropped_by_component.items()],
    )


def envoy(registry: Registry, state: Latest[EnvoyState]) -> None:
    """Crashes and restarts in place since the agent started; remora's own."""
    for name, what in (
        ("crashes", "Ends of Envoy that nobody asked for."),
        ("restarts", "Restarts of Envoy in place."),
    ):

        def count(name: str = name) -> list[Sample]:
            return [({}, float(getattr(state.value, name)))]

        registry.computed(f"envoy_{name}_total", "counter", what, count)


def xds(registry: Registry, ledger: "Ledger") -> None:
    """Connections and messages under istio's names; bytes, sizes, refusals and silence under ours."""

    def by_type(side: str) -> Callable[[], list[Sample]]:
        return lambda: [({"type": kind}, n) for (where, kind), n in ledger.terminations.items() if where == side]

    def total(read: Callable[[], int]) -> Callable[[], list[Sample]]:
        return lambda: [({}, float(read()))] if read() else []

    rows: list[tuple[str, str, Callable[[], list[Sample]]]] = [
        (
            "istiod_connection_failures",
            "Attempts to reach the control plane that failed.",
            total(lambda: ledger.failures),
        ),
        (
            "istiod_connection_terminations",
            "Discovery streams that the control plane ended, by how.",
            by_type("istiod"),
        ),
        ("envoy_connection_terminations", "Discovery streams that Envoy ended, by how.", by_type("envoy")),
        ("xds_proxy_requests", "Discovery requests sent to the control plane.", total(lambda: ledger.requests)),
        (
            "xds_proxy_responses",
            "Discovery responses received from the control plane.",
            total(lambda: ledger.responses),
        ),
        (
            "xds_request_bytes_total",
            "Bytes of discovery requests sent to the control plane.",
            total(lambda: ledger.bytes_up),
        ),
        (
            "xds_response_bytes_total",
            "Bytes of discovery responses received from the control plane.",
            total(lambda: ledger.bytes_down),
        ),
        (
            "xds_nacks_total",
            "Configurations that Envoy refused, by type.",
            lambda: [({"type": name}, float(count)) for name, count in ledger.nacks().items()],
        ),
    ]
    for name, what, samples in rows:
        registry.computed(name, "counter", what, samples)
    registry.computed(
        "xds_seconds_since_last_response",
        "gauge",
        "Seconds since the control plane last sent anything.",
        lambda: [] if ledger.heard is None else [({}, time.monotonic() - ledger.heard)],
    )
    registry.histogram(
        "xds_push_bytes", "Size of discovery responses in bytes.", lambda: (ledger.buckets(), ledger.bytes_down)
    )


def xds_cache(registry: Registry, report: "Callable[[], CacheReport]") -> None:
    """The configuration that is kept for when the control plane is away."""
    whats: dict[str, tuple[str, Callable[[CacheReport], float]]] = {
        "xds_stale": (
            "1 while the control plane is away and Envoy is served the configuration it accepted last.",
            lambda now: now.state == "stale",
        ),
        "xds_cache_age_seconds": (
            "Seconds since the control plane confirmed the configuration that is kept for an outage.",
            lambda now: now.age,
        ),
        "xds_cache_bytes": ("Bytes of configuration kept for an outage.", lambda now: now.bytes),
        "xds_cache_resources": ("Resources kept for an outage.", lambda now: now.resources),
        "xds_cache_off": ("1 if nothing is kept for an outage.", lambda now: now.state == "off"),
    }
    for name, (what, read) in whats.items():

        def sample(read: "Callable[[CacheReport], float]" = read) -> list[Sample]:
            return [({}, float(read(report())))]

        registry.computed(name, "gauge", what, sample)


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
        "Seconds that the resolvers took to answer a forwarded DNS query.",
        lambda: (stats.histogram(), stats.duration_sum),
    )
