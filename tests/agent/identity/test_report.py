import json
import time

import pytest

from agent.identity import certs, report
from agent.identity.journal import RenewalStatus
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
