import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import certs
from agent.errors import ConfigError, FatalError
from agent.identity import report
from agent.identity.certs import verify
from agent.identity.journal import RenewalStatus
from agent.model import Secret
from tests.agent.cli.test_control import answering, free_port
from tests.fakes.ca import Root

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"
ROOT = Root("root")


def held(ttl: float = 3600.0) -> Secret:
    key, leaf = ROOT.workload(SPIFFE, ttl)
    return verify([leaf.decode(), ROOT.pem.decode()], key, SPIFFE, time.time() + min(0.0, ttl - 1.0))


def row(
    secret: Secret | None = None,
    status: RenewalStatus | None = None,
    token: tuple[float | None, str] = (None, ""),
    now: float | None = None,
) -> Any:
    now = time.time() if now is None else now
    return report.describe(secret or held(), status or RenewalStatus(), ("istiod:15012",), token, now)


def page(rows: Any) -> bytes:
    body = json.dumps(rows).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def shown(rows: Any, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    with answering(page(rows)) as (port, asked):
        status = certs.run([f"--status-port={port}", *flags], {})
    assert asked == [b"GET /debug/certs HTTP/1.1"]
    return status, capsys.readouterr().out


def test_a_valid_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    secret = held()
    now = secret.not_after - 3599.0
    good = row(secret, RenewalStatus(next_renewal=now + 1805, credential="token"), (now + 605, ""), now)
    text = "\n".join(certs.lines(good, now))
    for phrase in (
        f"default  {SPIFFE}",
        "subject    (empty)",
        f"san        {SPIFFE}",
        "issuer     O=root",
        f"serial     {good['certificate']['serial']}",
        "[------------------------]",
        "59m59s left",
        "rotation   in 30m5s",
        "source     CA istiod:15012, which accepted the token; the token expires in 10m5s",
        "last error none",
        "trusts     O=root until",
    ):
        assert phrase in text, text
    status, text = shown([good], capsys)
    assert (status, f"default  {SPIFFE}\n" in text, " left\n" in text) == (0, True, True)


def test_trouble_is_said_and_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    secret = held(-5.0)
    now = secret.not_after + 5.0
    trouble = RenewalStatus(last_error="the CA is away", held_until=now + 61)
    bad = row(secret, trouble, (None, "cannot read the token x"), now)
    text = "\n".join(certs.lines(bad, now))
    assert "EXPIRED 5s ago" in text
    assert "last error the CA is away" in text
    assert "held       a certificate that becomes valid in 1m1s" in text
    assert "CA istiod:15012; cannot read the token x" in text
    status, text = shown([bad], capsys)
    assert (status, "EXPIRED" in text) == (1, True)
    none = report.describe(None, trouble, ("a:1",), (None, ""), now)
    status, text = shown([none], capsys)
    assert (status, "no certificate yet" in text) == (1, True)
    status, text = shown([], capsys)
    assert (status, "another server" in text) == (1, True)


def test_files_are_shown_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    from agent import certinfo

    _, leaf = ROOT.workload("spiffe://mounted/x")
    pair = {
        "name": "file-cert:c~k", "source": "files", "files": ["c", "k"], "issuers": [], "roots": [],
        "certificate": certinfo.describe(leaf)[0], "last_error": None,
    }  # fmt: skip
    trust = {**pair, "name": "ROOTCA", "files": ["r"], "certificate": None, "roots": certinfo.describe(ROOT.pem)}
    status, text = shown([pair, trust], capsys)
    assert status == 0
    assert "spiffe://mounted/x" in text
    assert "source     c and k" in text
    broken = {**pair, "certificate": None, "last_error": "c is empty"}
    status, text = shown([row(), broken], capsys)
    assert (status, "last error c is empty" in text) == (1, True)


def test_json_is_what_the_agent_says(capsys: pytest.CaptureFixture[str]) -> None:
    good = row()
    status, text = shown([good], capsys, "--json")
    assert (status, json.loads(text)) == (0, json.loads(json.dumps([good])))
    assert "PRIVATE" not in text


def test_nobody_or_somebody_else_there() -> None:
    with pytest.raises(FatalError, match="the agent was not reached"):
        certs.run([f"--status-port={free_port()}"], {})
    for answer, phrase in (
        (b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", "404"),
        (page("x")[:-3] + b"}}}", "no agent"),
    ):
        with answering(answer) as (port, _), pytest.raises(FatalError, match=phrase):
            certs.run([f"--status-port={port}"], {})
    with pytest.raises(ConfigError, match="no arguments"):
        certs.run(["x"], {})


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_bars_have_one_length(begin: float, end: float, now: float) -> None:
    assert len(certs.bar(begin, end, now)) == certs.BAR + 2
