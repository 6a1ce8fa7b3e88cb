"""What `remora-agent certs` and the metrics say about the workload certificate. Plain data: JSON types only."""

from collections.abc import Sequence
from typing import Any

from agent import certinfo, pem
from agent.identity.journal import RenewalStatus
from agent.identity.trust import Trust
from agent.model import Secret

Report = dict[str, Any]


def describe(
    secret: Secret | None,
    status: RenewalStatus,
    addresses: Sequence[str],
    token: tuple[float | None, str],
    now: float,
    trust: Trust | None = None,
    provisioned: bytes = b"",
    trying: bool = False,
) -> Report:
    """Everything but the key. Times are epoch seconds, None = does not apply.

    `token` is (its expiry, what is wrong with it), `provisioned` the certificate of PROV_CERT, `trying` that the CA is
    being asked now.
    """
    chain = certinfo.describe(secret.chain) if secret else []
    return {
        "name": "default",
        "source": "ca",
        "served": True,
        "ca": list(addresses),
        "valid": secret is not None and secret.not_before <= now < secret.not_after,
        "identity": secret.identity if secret else None,
        "certificate": chain[0] if chain else None,
        "issuers": chain[1:],
        "roots": _roots(secret.roots, trust or Trust()) if secret else [],
        "received": secret.created if secret else None,
        "next_rotation": status.next_renewal or None,
        "attempt_in_progress": trying,
        "held_until": status.held_until or None,
        "credential": status.credential or None,
        "refused": list(status.refused),
        "token": {"expires": token[0], "problem": token[1] or None},
        "provisioned": next(iter(certinfo.describe(provisioned, 1)), None),
        "renewals": status.renewals,
        "failures": status.failures,
        "failing_since": status.failing_since or None,
        "failed_by_reason": dict(status.failed_by_reason),
        "last_error": status.last_error if status.failures else None,
        "last_failure": _failure(status) if status.last_failed else None,
    }


def _failure(status: RenewalStatus) -> Report:
    return {"time": status.last_failed, "error": status.last_error, "recovered": not status.failures}


def _roots(roots: bytes, trust: Trust) -> list[Report]:
    """Each with the reason for which it is trusted, and until when where that is known."""
    found = []
    for block, root in zip(pem.certificates(roots), certinfo.describe(roots), strict=False):
        origin, until = trust.origin(block.strip())
        found.append({**root, "origin": origin, "trusted_until": until})
    return found
