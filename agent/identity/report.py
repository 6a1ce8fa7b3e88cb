"""What `remora-agent certs` and the metrics say about the workload certificate. Plain data: JSON types only."""

from collections.abc import Sequence
from typing import Any

from agent import certinfo
from agent.identity.journal import RenewalStatus
from agent.model import Secret

Report = dict[str, Any]


def describe(
    secret: Secret | None, status: RenewalStatus, addresses: Sequence[str], token: tuple[float | None, str], now: float
) -> Report:
    """Everything but the key. Times are epoch seconds, None = does not apply.

    `token` is (its expiry, what is wrong with it).
    """
    chain = certinfo.describe(secret.chain) if secret else []
    return {
        "name": "default",
        "source": "ca",
        "ca": list(addresses),
        "valid": secret is not None and secret.not_before <= now < secret.not_after,
        "identity": secret.identity if secret else None,
        "certificate": chain[0] if chain else None,
        "issuers": chain[1:],
        "roots": certinfo.describe(secret.roots) if secret else [],
        "received": secret.created if secret else None,
        "next_rotation": status.next_renewal or None,
        "held_until": status.held_until or None,
        "credential": status.credential or None,
        "token": {"expires": token[0], "problem": token[1] or None},
        "renewals": status.renewals,
        "failures": status.failures,
        "failed_by_reason": dict(status.failed_by_reason),
        "last_error": status.last_error or None,
    }
