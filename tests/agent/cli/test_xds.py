import json
import subprocess
import sys
from typing import Any

import pytest

from agent.cli import xds
from agent.errors import ConfigError, FatalError
from agent.model import XdsStatus
from agent.xds.cache import CLUSTER, Kept
from agent.xds.endpoints import Standing
from agent.xds.keeper import CacheReport
from agent.xds.ledger import Ledger
from agent.xds.report import report
from agent.xds.wire import LISTENER, Flavour, Head
from tests.agent.cli.test_control import answering, free_port


def found(status: XdsStatus, cache: str = "live", error: str | None = None) -> dict[str, Any]:
    ledger, kept = Ledger(), Kept(Flavour.DELTA)
    kept.put("a", b"x" * 1400)
    ledger.requested(Head(CLUSTER), 62_000, 1.0)
    ledger.responded(Head(CLUSTER, "n", "2026-11-21T05:55:04Z/17 and more"), 1_400_000, 2.0)
    ledger.requested(Head(CLUSTER, "n", "", error), 10, 3.0)
    ledger.responded(Head(LISTENER, "n", "v"), 10, 99.7)
    standings = [Standing("a:1", 2, 1.5, "it refuses"), Standing("b:1", 0, 0.0, "")]
    return report(status, ledger, CacheReport(cache, "", 1401, 1, 0.0), {CLUSTER: kept}, standings, 100.0)


def shown(data: Any, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    body = json.dumps(data).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    with answering(answer) as (port, asked):
        status = xds.run([f"--status-port={port}", *flags], {})
    assert asked == [b"GET /debug/xds HTTP/1.1"]
    return status, capsys.readouterr().out


def test_live(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = shown(found(XdsStatus(connected=True, endpoint="b:1", streams=2)), capsys)
    assert status == 0
    for phrase in (
        "live  b:1, last heard 0.3s ago",
        "2 streams of Envoy's, 2 requests (62 KB), 2 responses (1.4 MB)",
        "cache live, 1 resources, 1.4 KB",
        "endpoint a:1  2 failures in a row, behind the others for 1.5s: it refuses",
        "endpoint b:1  nothing against it",
    ):
        assert phrase in text, text
    head, cluster, listener = (line.split() for line in text.splitlines()[-3:])
    assert head[0] == "TYPE"
    assert cluster[:6] == ["Cluster", "2026-11-21T05:55:04Z/17…", "1", "1.4", "KB", "1"]
    assert cluster[-1] == "live"
    assert listener[0] == "Listener"
    assert listener[-1] == "pending"


def test_refused(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = shown(found(XdsStatus(connected=True), error="cluster a is bad"), capsys)
    assert "Cluster was refused: cluster a is bad" in text
    assert " refused\n" in text


@pytest.mark.parametrize("status", [XdsStatus(stale=True, error="gone"), XdsStatus(error="gone")])
def test_without_a_control_plane_the_exit_status_says_so(status: XdsStatus, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = shown(found(status), capsys)
    assert code == 1
    assert text.startswith("stale" if status.stale else "disconnected")
    assert "error: gone" in text


def test_json_is_what_the_agent_said(capsys: pytest.CaptureFixture[str]) -> None:
    data = found(XdsStatus(connected=True))
    assert json.loads(shown(data, capsys, "--json")[1]) == data


def test_no_agent_and_wrong_arguments() -> None:
    with pytest.raises(FatalError, match="the agent was not reached"):
        xds.run([f"--status-port={free_port()}"], {})
    with pytest.raises(ConfigError, match="takes no arguments"):
        xds.run(["more"], {})


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (62_000, "62 KB"), (999_600, "1.0 MB"),
                         (20_000_000, "20 MB"), (3_000_000_000, "3.0 GB")]
)  # fmt: skip
def test_sizes(number: int, text: str) -> None:
    assert xds.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (9.94, "9.9s"), (42.9, "42s"), (428, "7m8s"), (7200, "2h0m")]
)
def test_spans(seconds: float, text: str) -> None:
    assert xds.since(seconds) == text


def test_it_starts_without_what_it_does_not_need() -> None:
    code = "import sys, agent.cli.xds; sys.exit(any(m in sys.modules for m in ('asyncio', 'grpc', 'google.protobuf')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
