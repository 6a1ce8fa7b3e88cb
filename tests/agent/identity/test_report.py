import json
import time

import pytest

from agent.identity import certs, report
from agent.identity.journal import RenewalStatus
from agent.identity.trust import Trust
from agent.record import replace
from tests.fakes.ca import Root

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"


def test_before_the_first_certificate() -> None:
    status = RenewalStatus(failures=2, last_error="the CA is away", failed_by_reason=(("unavailable", 2),))
    found = report.describe(None, status, ("ca:15012",), (None, "no token"), 0.0)
    assert (found["valid"], found["certificate"], found["next_rotation"]) == (False, None, None)
    assert (found["last_error"], found["token"]["problem"]) == ("the CA is away", "no token")
    assert found["failed_by_reason"] == {"unavailable": 2}
    json.dumps(found)


@pytest.mark.parametrize(("shift", "valid"), [(0.0, True), (7200.0, False), (-7200.0, False)])
def test_everything_but_the_key(shift: float, valid: bool) -> None:
    root, now = Root(), time.time()
    key, leaf = root.workload(SPIFFE)
    secret = certs.verify([leaf.decode(), root.pem.decode()], key, SPIFFE, now)
    status = RenewalStatus(next_renewal=now + 10, credential="token")
    found = report.describe(secret, status, ("ca:15012",), (now + 60, ""), now + shift)
    assert found["valid"] is valid
    assert found["identity"] == SPIFFE
    assert found["certificate"]["san"] == [SPIFFE]
    assert found["certificate"]["issuer"] == "O=root"
    assert found["certificate"]["serial"] == secret.serial
    assert found["certificate"]["not_after"] == secret.not_after
    assert [c["subject"] for c in found["issuers"] + found["roots"]] == ["O=root", "O=root"]
    assert "PRIVATE" not in json.dumps(found)


def test_the_last_failure_stays_and_the_present_error_goes() -> None:
    failing = RenewalStatus(failures=2, failing_since=5.0, last_error="away", last_failed=7.0, refused=("token",))
    found = report.describe(None, failing, (), (None, ""), 8.0, trying=True)
    assert (found["last_error"], found["failing_since"], found["refused"]) == ("away", 5.0, ["token"])
    assert found["last_failure"] == {"time": 7.0, "error": "away", "recovered": False}
    assert found["attempt_in_progress"]
    recovered = RenewalStatus(last_error="away", last_failed=7.0)
    found = report.describe(None, recovered, (), (None, ""), 8.0)
    assert (found["last_error"], found["failing_since"], found["last_failure"]["recovered"]) == (None, None, True)


def test_roots_say_why_they_are_trusted_and_the_provisioned_certificate_is_there() -> None:
    root, former, now = Root("new"), Root("old"), time.time()
    key, leaf = root.workload(SPIFFE)
    secret = certs.verify([leaf.decode(), root.pem.decode()], key, SPIFFE, now)
    trust = Trust(secret.roots, ((former.pem, now + 60),))
    secret = replace(secret, roots=trust.merged())
    found = report.describe(secret, RenewalStatus(), (), (None, ""), now, trust, leaf)
    assert {r["subject"]: (r["origin"], r["trusted_until"]) for r in found["roots"]} == {
        "O=new": ("current", None),
        "O=old": ("former", now + 60),
    }
    assert found["provisioned"]["serial"] == secret.serial
