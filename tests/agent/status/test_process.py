"""The numbers of this very process."""

import os
import time

import psutil

from agent.status.metrics import Registry
from agent.status.process import age, register, start_time


def test_they_agree_with_psutil() -> None:
    registry = Registry()
    register(registry)
    process = psutil.Process()
    page = dict(line.split(" ") for line in registry.render().splitlines() if not line.startswith("#"))
    values = {name.removeprefix("istio_agent_process_"): float(value) for name, value in page.items()}
    assert abs(values["start_time_seconds"] - process.create_time()) < 2
    assert abs(values["resident_memory_bytes"] - process.memory_info().rss) < 64 << 20
    assert values["virtual_memory_bytes"] > values["resident_memory_bytes"]
    assert 0 < values["cpu_seconds_total"] <= sum(process.cpu_times()[:2]) + 1
    assert values["threads"] >= 1
    assert values["open_fds"] >= 3


def test_age_and_start_are_two_views_of_one_moment() -> None:
    assert abs(time.time() - start_time() - age()) < 2
    assert 0 < age() < time.clock_gettime(time.CLOCK_BOOTTIME)
    assert os.getpid() > 0
