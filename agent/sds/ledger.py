"""What passed over the secret streams, in numbers; the status page reads them. One event loop: no locks."""

from bisect import bisect_left

SEND_TIMES = (0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0)  # seconds, as istio's
LATE = 30.0  # seconds after which a response that the client has not taken counts as timed out


class Ledger:
    """One agent since its start."""

    __slots__ = ("_sends", "errors", "largest", "rejects", "send_seconds", "stale", "timeouts")

    def __init__(self) -> None:
        self.rejects = 0  # pilot_total_xds_rejects{type="sds"}
        self.errors = 0  # pilot_total_xds_internal_errors: streams that ended because a file is not usable
        self.stale = 0  # pilot_xds_expired_nonce{type="sds"}
        self.largest = 0  # pilot_xds_recv_max: bytes of the largest request
        self.timeouts = 0  # pilot_xds_write_timeout: responses that had to wait for LATE seconds
        self.send_seconds = 0.0
        self._sends = [0] * (len(SEND_TIMES) + 1)

    def received(self, size: int) -> None:
        """A request of `size` bytes."""
        if size > self.largest:
            self.largest = size

    def sent(self, seconds: float) -> None:
        """A response was on its way after `seconds` (pilot_xds_send_time)."""
        self._sends[bisect_left(SEND_TIMES, seconds)] += 1
        self.send_seconds += seconds

    def send_times(self) -> list[tuple[float, int]]:
        """(upper bound in seconds, how many took at most that long), the last bound is infinity."""
        found, total = [], 0
        for bound, count in zip((*SEND_TIMES, float("inf")), self._sends, strict=True):
            total += count
            found.append((bound, total))
        return found
