"""Which numbers of which component stand on the metrics page, under istio's names."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agent.events import Recorder
from agent.latest import Latest
from agent.model import EnvoyState, Secret
from agent.status.metrics import Registry, Sample

if TYPE_CHECKING:
    from agent.dns.stats import DnsStats
    from agent.identity.journal import RenewalStatus
    from agent.identity.manager import IdentityManager
    from agent.sds.server import SdsServer
    from agent.xds.keeper import CacheReport
    from agent.xds.ledger import Ledger


def certificate(
    registry: Registry, secret: Latest[Secret | None], mounted: Callable[[], Mapping[str, float]] = dict
) -> None:
    """Seconds until what Envoy is served expires, negative afterwards; no sample before the first certificate.

    `mounted`: ends of mounted files by name, which take the place of the CA's.
    """
    seen: tuple[Secret | None, dict[str, float], list[float]] = (None, {}, [])

    def ends() -> tuple[dict[str, float], list[float]]:
        nonlocal seen
        now = secret.value
        if now is not None and now is not seen[0]:
            seen = (now, *_ends(now))
        return seen[1], seen[2]

    def left() -> list[Sample]:
        now = time.time()
        return [({"resource_name": name}, end - now) for name, end in {**ends()[0], **mounted()}.items()]

    def issuers() -> list[Sample]:
        return [({"resource_name": "default"}, end - time.time()) for end in ends()[1]]

    what = "Time in seconds until the certificate expires, for ROOTCA the first of its roots; negative if it did."
    registry.computed("cert_expiry_seconds", "gauge", what, left)
    what = "Seconds until an intermediate certificate expires, where that is before the certificate itself."
    registry.computed("cert_issuer_expiry_seconds", "gauge", what, issuers)


def _ends(secret: Secret) -> tuple[dict[str, float], list[float]]:
    """When the certificate and the first of its roots end, and the first intermediate if that is earlier."""
    found = {"default": secret.not_after}
    if not secret.roots:
        return found, []
    from agent import certinfo  # whoever made the secret has imported x509

    roots = [one for one in certinfo.describe(secret.roots) if "error" not in one]
    if roots:
        found["ROOTCA"] = min(one["not_after"] for one in roots)
    own = {one["sha256"] for one in roots}
    between = [one for one in certinfo.describe(secret.chain)[1:] if one.get("sha256", "") not in {*own, ""}]
    first = min((one["not_after"] for one in between), default=secret.not_after)
    return found, [first] if first < secret.not_after else []


def identity(registry: Registry, manager: "IdentityManager") -> None:
    """Requests to the CA under istio's names; renewals, the credential in use and the token's life under ours."""

    def counter(name: str, what: str, samples: "Callable[[RenewalStatus], list[Sample]]") -> None:
        registry.computed(name, "counter", what, lambda: [s for s in samples(manager.status.value) if s[1]])

    calls = manager.calls
    csr = {"request_type": "csr"}
    counter(
        "num_outgoing_requests",
        "Requests for a certificate that were sent to the CA.",
        lambda _: [(csr, calls.requests)],
    )
    counter(
        "num_failed_outgoing_requests",
        "Requests to the CA that ended without a usable certificate.",
        lambda _: [(csr, calls.failed)],
    )
    counter("num_outgoing_retries", "Calls to the CA that repeated a failed one.", lambda _: [(csr, manager.retries)])
    counter(
        "outgoing_latency",
        "Milliseconds spent in requests to the CA, in all.",
        lambda _: [(csr, round(calls.seconds * 1e3, 3))],
    )
    counter("cert_renewals_total", "Renewals of the workload certificate that succeeded.", lambda s: [({}, s.renewals)])
    counter(
        "cert_renewal_failures_total",
        "Attempts to get a certificate from the CA that failed, by reason.",
        lambda s: [({"reason": reason}, count) for reason, count in s.failed_by_reason],
    )

    def rotation() -> list[Sample]:
        at = manager.status.value.next_renewal
        return [({}, at - time.time())] if at else []

    def credential() -> list[Sample]:
        used = manager.status.value.credential
        return [({"credential": used}, 1)] if used else []

    def refused() -> list[Sample]:
        return [({"credential": kind}, 1) for kind in manager.status.value.refused]

    def failures() -> list[Sample]:
        failed = manager.status.value.failures
        return [({}, failed)] if failed or calls.requests else []

    def held() -> list[Sample]:
        until = manager.status.value.held_until
        return [({}, until - time.time())] if until else []

    def token() -> list[Sample]:
        expires, _ = manager.token()
        return [] if expires is None else [({}, expires - time.time())]

    registry.computed(
        "cert_next_rotation_seconds",
        "gauge",
        "Seconds until the next attempt to renew the workload certificate.",
        rotation,
    )
    registry.computed("ca_credential", "gauge", "1 for the credential that the CA accepted last.", credential)
    what = "1 for each credential that the CA refused and has not accepted since."
    registry.computed("ca_credential_refused", "gauge", what, refused)
    what = "Seconds until the token for the CA expires; negative if it has expired."
    registry.computed("token_expiry_seconds", "gauge", what, token)
    what = "Attempts to renew the workload certificate that failed in a row; 0 while renewal works."
    registry.computed("cert_renewal_failures", "gauge", what, failures)
    what = "Seconds until a certificate that the CA dated ahead becomes valid and is used; absent without one."
    registry.computed("cert_held_seconds", "gauge", what, held)
    what = "How often the wall clock was set or the machine was suspended."
    counter("clock_jumps_total", what, lambda s: [({}, s.clock_jumps)])


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
