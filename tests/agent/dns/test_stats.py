import math

from agent.dns.stats import DnsStats


def test_the_histogram_is_cumulative_and_its_bounds_are_inclusive() -> None:
    stats = DnsStats()
    for seconds in (0.0005, 0.001, 0.004, 0.5, 9.0):
        stats.observe(seconds)
    assert stats.histogram() == [(0.001, 2), (0.005, 3), (0.01, 3), (0.1, 3), (1.0, 4), (5.0, 4), (math.inf, 5)]
    assert stats.duration_count == 5
    assert math.isclose(stats.duration_sum, 9.5055)
