"""When a workload counts as healthy: runs of equal probe results against two thresholds (ReadinessProbe)."""

from agent.record import record


@record
class Health:
    """`healthy` is what was said last, None before the first news; the counters are of consecutive results."""

    healthy: bool | None = None
    successes: int = 0
    failures: int = 0


@record
class News:
    """The state changed; `error` is the reason of a failure, "" when all is well."""

    healthy: bool
    error: str = ""


def observe(state: Health, error: str, success_threshold: int, failure_threshold: int) -> tuple[Health, News | None]:
    """The state after one probe (`error` "" = it succeeded), and the news if a threshold was reached by it.

    The first news may go either way; nothing is said twice.
    """
    if not error:
        successes = state.successes + 1
        if successes >= success_threshold and state.healthy is not True:
            return Health(True), News(True)
        return Health(state.healthy, successes, 0), None
    failures = state.failures + 1
    if failures >= failure_threshold and state.healthy is not False:
        return Health(False), News(False, error)
    return Health(state.healthy, 0, failures), None
