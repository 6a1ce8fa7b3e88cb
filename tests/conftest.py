"""Rules of the whole suite: whoever is root runs the root tests, skips are then failures, no process stays behind."""

import os
from typing import Any

import psutil
import pytest
from hypothesis import settings

# With the fork handlers of gRPC's own library a child forked between live streams may crash before its exec.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# A landing is judged by the same examples each time; new ones are looked for at every run by hand.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
ROOT = os.geteuid() == 0
LONG = 40  # characters of a parameter that is no good name for a test
_skipped: list[str] = []
_left: list[str] = []  # command lines of processes that tests did not end


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ROOT:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    # Keys, certificates and random bytes are others in every process: by such names they could not share the work.
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > LONG) else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of those that run test files side by side is done."""
    _left.extend(getattr(node, "workeroutput", {}).get("left", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    left = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    _left.extend(" ".join(p.cmdline()) for p in left)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = _left
        return
    problems = []
    if ROOT and _skipped:
        problems.append(f"skipped although root: {', '.join(_skipped)}")
    if _left:
        problems.append(f"processes left behind: {_left}")
    if problems and session.exitstatus == 0:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        for problem in problems:
            reporter.write_line(problem, red=True)
        session.exitstatus = 1
