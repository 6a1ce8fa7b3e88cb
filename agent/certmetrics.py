"""What the metrics page says of the workload certificate: how long it lasts, how its renewal goes, with what."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agent.latest import Latest
from agent.model import Secret
from agent.status.metrics import Registry, Sample

if TYPE_CHECKING:
    from agent.identity.journal import RenewalStatus
    from agent.identity.manager import IdentityManager


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
