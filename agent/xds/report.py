"""The discovery streams as data for people: what `/debug/xds` answers and `remora-agent xds` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.model import XdsStatus
from agent.xds.cache import ORDER, Kept
from agent.xds.endpoints import Standing
from agent.xds.keeper import CacheReport
from agent.xds.ledger import Ledger, TypeTraffic, short


def report(
    status: XdsStatus,
    ledger: Ledger,
    cache: CacheReport,
    kept: Mapping[str, Kept],
    endpoints: Sequence[Standing],
    now: float,
) -> dict[str, Any]:
    """JSON values only; times are seconds ago, null for never. `now` is the ledger's clock."""
    state = "stale" if status.stale else "live" if status.connected else "disconnected"
    types = sorted({*ledger.types, *kept}, key=lambda url: (ORDER.index(url) if url in ORDER else len(ORDER), url))
    return {
        "state": state,
        "endpoint": status.endpoint,
        "error": status.error,
        "streams": status.streams,
        "silent": _ago(ledger.heard, now),
        "requests": ledger.requests,
        "responses": ledger.responses,
        "bytes_up": ledger.bytes_up,
        "bytes_down": ledger.bytes_down,
        "connection_failures": ledger.failures,
        "terminations": {f"{side} {kind}": count for (side, kind), count in sorted(ledger.terminations.items())},
        "cache": {
            "state": cache.state,
            "reason": cache.reason,
            "bytes": cache.bytes,
            "resources": cache.resources,
            "age": round(cache.age, 3),
        },
        "endpoints": [
            {"address": one.address, "failures": one.failures, "behind": one.behind, "error": one.error}
            for one in endpoints
        ],
        "types": [_row(url, ledger.types.get(url) or TypeTraffic(), kept.get(url), now) for url in types],
    }


def _row(type_url: str, one: TypeTraffic, kept: Kept | None, now: float) -> dict[str, Any]:
    return {
        "type": short(type_url),
        "type_url": type_url,
        "version": one.version or (kept.version if kept else ""),
        # What Envoy holds is only known where it is kept: the proxy itself does not take frames apart.
        "resources": len(kept.entries) if kept else None,
        "bytes": kept.size if kept else None,
        "pushes": one.pushes,
        "pushed_bytes": one.bytes,
        "last_push_bytes": one.last_bytes,
        "pushed": _ago(one.pushed, now),
        "acked": _ago(one.acked, now),
        "acked_version": one.acked_version,
        "nacked": _ago(one.nacked, now),
        "nacks": one.nacks,
        "error": one.error,
        "requests": one.requests,
    }


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else round(max(0.0, now - at), 3)
