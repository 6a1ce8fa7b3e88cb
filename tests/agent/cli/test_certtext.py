"""The page as a person reads it, for the days that it was made for."""

import time
from typing import Any

import pytest

from agent import certinfo
from agent.cli import certtext
from agent.identity import report
from agent.identity.certs import verify
from agent.identity.journal import RenewalStatus
from agent.identity.trust import Trust
from agent.record import replace
from tests.fakes.ca import Root

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"
ROOT, OLD, PARTNER = Root("mesh"), Root("mesh"), Root("partner")
ISSUER = ROOT.intermediate("issuing")
NOW = float(int(time.time()))


def row(
    ttl: float = 36000.0,
    status: RenewalStatus | None = None,
    token: tuple[float | None, str] = (None, ""),
    trust: Trust | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A report as the agent makes it; the certificate ends `ttl` seconds from NOW."""
    key, leaf = ISSUER.workload(SPIFFE, ttl, -86400.0)
    chain = [leaf.decode(), ISSUER.pem.decode(), ROOT.pem.decode()]
    secret = verify(chain, key, SPIFFE, min(NOW, NOW + ttl - 10))
    trust = trust or Trust(ROOT.pem)
    secret = replace(secret, roots=trust.merged(), not_after=NOW + ttl)
    found = report.describe(secret, status or RenewalStatus(), ("istiod:15012",), token, NOW, trust, **more)
    return {**found, "certificate": {**found["certificate"], "not_after": NOW + ttl}}


FAILING = RenewalStatus(
    next_renewal=NOW + 42,
    failures=130,
    failing_since=NOW - 7200,
    failed_by_reason=(("deadline_exceeded", 3), ("unavailable", 127)),
    last_reason="unavailable",
    last_error="the CA is away",
    last_failed=NOW - 20,
)
SINCE = certtext.stamp(NOW - 7200)
STARTING = report.describe(None, RenewalStatus(), ("a:1", "b:1"), (None, "no token"), NOW, trying=True)


def text(*rows: Any, width: int = 0, colour: bool = False) -> str:
    return "\n".join(certtext.page(rows, NOW, width, colour)) + "\n"


@pytest.mark.parametrize(
    ("shown", "verdict"),
    [
        (row(), "OK, valid for 10h0m more"),
        (
            row(status=FAILING),
            f"DEGRADED: renewal fails since {SINCE} (2h0m ago), valid for 10h0m more",
        ),
        (row(-65.0), "EXPIRED 1m5s ago"),
        (row(-65.0, FAILING), f"EXPIRED 1m5s ago; renewal fails since {SINCE} (2h0m ago)"),
        (STARTING, "NONE YET: the CA has not answered yet"),
        (
            report.describe(None, FAILING, ("a:1",), (None, ""), NOW),
            f"NONE YET: every attempt fails since {SINCE} (2h0m ago)",
        ),
        ({**row(), "served": False, "shadowed_by": ["c", "k"]}, "NOT SERVED: Envoy gets c and k instead"),
        (
            {"name": "default", "source": "external", "socket": "./s", "there": True, "roots": []},
            "ELSEWHERE, served by another server on ./s",
        ),
    ],
)
def test_the_verdict_comes_first(shown: Any, verdict: str) -> None:
    assert text(shown).splitlines()[0] == f"default: {verdict}"


def test_a_healthy_day() -> None:
    status = RenewalStatus(next_renewal=NOW + 1805, credential="token")
    page = text(row(status=status, token=(NOW + 605, "")))
    for phrase in (
        f"  names        {SPIFFE}\n",
        "  subject      (empty)\n",
        "  issuer       O=issuing\n",
        "  renewal      in 30m5s (",
        " | = renewal\n",
        "  last error   none\n",
        f"  intermediate O=issuing, sha256 {certinfo.describe(ISSUER.pem)[0]['sha256'][:16]}, until ",
        f"  trusts       O=mesh, sha256 {certinfo.describe(ROOT.pem)[0]['sha256'][:16]}, until ",
        "  CA           istiod:15012\n",
        "  credentials  the CA accepted the token last\n",
        "  token: expires in 10m5s (",
    ):
        assert phrase in page, page
    assert page.count("O=mesh") == 1, "the root at the end of the chain is told once"
    assert "failures" not in page


def test_an_outage_tells_how_long_why_and_what_comes_next() -> None:
    status = replace(FAILING, credential="certificate", refused=("token",))
    _, old = ROOT.workload(SPIFFE, 7200.0)
    page = text(row(status=status, token=(NOW - 600, "the token expired 600 s ago"), provisioned=old))
    for phrase in (
        "  renewal      next try in 42s (",
        "  failures     130 in a row since ",
        "               since the agent started: unavailable 127, deadline_exceeded 3\n",
        f"  last error   {certtext.stamp(NOW - 20)} (20s ago): the CA is away\n",
        "  credentials  the CA accepted the certificate last\n",
        "               REFUSED: token\n",
        "               token: EXPIRED 10m0s ago (",
        "               provisioned certificate: expires in ",
    ):
        assert phrase in page, page
    assert "expired 600 s ago" not in page, "the same is not said twice"
    assert "| = renewal" not in page


def test_after_an_outage_the_last_error_stays_with_its_time() -> None:
    status = replace(FAILING, failures=0, failing_since=0.0, next_renewal=NOW - 1, held_until=NOW + 61)
    page = text(row(status=status, token=(NOW + 30, "")))
    assert page.startswith("default: OK")
    assert f"last error   {certtext.stamp(NOW - 20)} (20s ago), recovered: the CA is away\n" in page
    assert "renewal      attempt in progress\n" in page
    assert "held         a certificate that becomes valid in 1m1s" in page
    assert "SOON" in page


def test_roots_that_look_alike_are_told_apart() -> None:
    trust = Trust(ROOT.pem, ((OLD.pem, NOW + 7000),), (PARTNER.pem.decode(),))
    lines = [line for line in text(row(trust=trust)).splitlines() if "sha256" in line and "issuing" not in line]
    by_origin = {line.split("), ", 1)[1].split(",")[0]: line for line in lines}
    assert by_origin.keys() == {"the CA's", "a former one of the CA's", "the control plane's bundle"}
    assert "trusted until" in by_origin["a former one of the CA's"]
    assert len({line.split("sha256 ")[1][:16] for line in lines}) == 3


def files(**changes: Any) -> dict[str, Any]:
    _, leaf = ROOT.server("a.example", "b.example", "c.example", "evil\x1b[2J\n.example")
    return {
        "name": "file-cert:c~k", "source": "files", "files": ["c", "k"], "served": True, "issuers": [], "roots": [],
        "certificate": certinfo.describe(leaf)[0], "last_error": None, **changes,
    }  # fmt: skip


def test_files() -> None:
    page = text(files(), files(last_error="cannot read c"), files(certificate=None, last_error="c is empty"))
    good, worse, bad = page.split("\n\n")
    assert good.startswith("file-cert:c~k: OK, valid for ")
    assert "  files        c\n               k\n" in good
    assert "  names        a.example\n               b.example\n               c.example\n" in good
    assert worse.startswith("file-cert:c~k: DEGRADED: the files are unusable now, their last good content is served")
    assert "last error   cannot read c\n" in worse
    assert bad.startswith("file-cert:c~k: MISSING: c is empty\n")
    roots = files(name="ROOTCA", certificate=None, roots=certinfo.describe(ROOT.pem + Root("x", days=-1).pem))
    assert text(roots).startswith("ROOTCA: OK, 2 roots, 1 of them EXPIRED\n")
    assert text({**roots, "roots": roots["roots"][1:]}).startswith("ROOTCA: EXPIRED, every root of it\n")


def test_nothing_that_others_wrote_leaves_its_line() -> None:
    page = text(files(name="a\nb", last_error="\x1b[2J\rx", files=["\x07"]))
    assert page.startswith(r"a\nb: DEGRADED")
    assert all(line.isprintable() for line in page.splitlines())
    assert r"evil\x1b[2J\n.example" in page


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_lines_fit_the_terminal(width: int) -> None:
    trust = Trust(ROOT.pem, ((OLD.pem, NOW + 7000),), (PARTNER.pem.decode(),))
    shown = (row(status=FAILING, trust=trust), files(), STARTING)
    long = max(len(word) for word in text(*shown).split())
    folded = text(*shown, width=width)
    assert max(map(len, folded.splitlines())) <= max(width, long + certtext.LABEL + 2)
    assert folded.split() == text(*shown).split()


def test_colours() -> None:
    page = text(row(status=FAILING, token=(NOW - 1, "")), width=60, colour=True)
    assert "default: \x1b[1;33mDEGRADED\x1b[0m: " in page
    assert "token: \x1b[31mEXPIRED\x1b[0m " in page
    assert "\n  \x1b[1;32mOK\x1b[0m, " in text(files(name="file-cert:" + "c" * 60), width=60, colour=True)
