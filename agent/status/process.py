"""The process_* metrics of this process, from /proc."""

import os
import time
from collections.abc import Callable, Iterable

from agent.status.metrics import Registry, Sample

PROC = "/proc/self"


def start_time() -> float:
    """Epoch seconds at which this process began (kernel's clock ticks: ± 10 ms)."""
    boot = next(line for line in _read("/proc/stat").splitlines() if line.startswith("btime "))
    return int(boot.split()[1]) + int(_fields()[19]) / os.sysconf("SC_CLK_TCK")


def age() -> float:
    """Seconds since this process began, whatever was done to the wall clock meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(_fields()[19]) / os.sysconf("SC_CLK_TCK")


def _fields() -> list[str]:
    """/proc/self/stat from its third field (state) on; the second may contain blanks and brackets."""
    return _read(f"{PROC}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    with open(path) as f:
        return f.read()


def register(registry: Registry) -> None:
    """Add the metrics; each is read at the scrape."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")

    def cpu() -> float:
        fields = _fields()
        return (int(fields[11]) + int(fields[12])) / tick

    rows: list[tuple[str, str, str, Callable[[], float]]] = [
        ("cpu_seconds_total", "counter", "User and system CPU time in seconds.", cpu),
        ("resident_memory_bytes", "gauge", "Resident memory in bytes.", lambda: int(_fields()[21]) * page),
        ("virtual_memory_bytes", "gauge", "Virtual memory in bytes.", lambda: int(_fields()[20])),
        ("start_time_seconds", "gauge", "Start of the process in epoch seconds.", start_time),
        ("open_fds", "gauge", "Open file descriptors.", lambda: len(os.listdir(f"{PROC}/fd"))),
        ("threads", "gauge", "Threads of the process.", lambda: int(_fields()[17])),
    ]
    for name, kind, what, read in rows:
        registry.computed(f"process_{name}", kind, what, _single(read))


def _single(read: Callable[[], float]) -> Callable[[], Iterable[Sample]]:
    return lambda: [({}, read())]
