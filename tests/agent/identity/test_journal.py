import logging

import pytest

from agent.errors import AttemptError
from agent.events import Recorder
from agent.identity.journal import Journal
from agent.latest import Latest
from agent.model import Readiness, Secret

SECRET = Secret(b"chain", b"KEY", b"roots", "spiffe://td/ns/a/sa/b", 0.0, 3700.0, 100.0, "abc")


class World:
    def __init__(self) -> None:
        self.readiness = Latest(Readiness(True))
        self.recorder = Recorder()
        self.journal = Journal(self.readiness, self.recorder)

    def kinds(self) -> list[str]:
        return [e.kind for e in self.recorder.events()]


def test_the_first_and_later_certificates_are_told_apart() -> None:
    w = World()
    w.journal.issued(SECRET, True, "token", 1800.0)
    w.journal.issued(SECRET, False, "certificate", 1800.0)
    assert w.kinds() == ["issued", "rotated"]
    status = w.journal.status.value
    assert (status.next_renewal, status.renewals, status.credential) == (1900.0, 1, "certificate")
    assert "KEY" not in w.recorder.to_json()


def test_an_outage_is_one_event_per_reason_and_counts_every_failure() -> None:
    w = World()
    for _ in range(3):
        w.journal.failed(AttemptError("unavailable", "the CA is away"), 100.0, 1.0, 60.0)
    w.journal.failed(AttemptError("untrusted", "a wrong root"), 100.0, 1.0, -1.0)
    assert w.kinds() == ["renewal-failed", "renewal-failed"]
    assert "valid for 60 s more" in w.recorder.events()[0].message
    assert "is expired" in w.recorder.events()[1].message
    status = w.journal.status.value
    assert (status.failures, status.last_error) == (4, "a wrong root")
    assert status.next_renewal == 101.0
    assert status.failed_by_reason == (("unavailable", 3), ("untrusted", 1))
    w.journal.issued(SECRET, False, "token", 1.0)
    assert "after 4 failed attempts" in w.recorder.events()[-1].message
    after = w.journal.status.value
    assert (after.failures, after.failing_since, after.last_reason) == (0, 0.0, "")
    assert (after.last_error, after.last_failed) == ("a wrong root", 100.0)  # it stays, with its time


@pytest.mark.parametrize(("remaining", "ready"), [(None, True), (5.0, True), (0.0, False), (-5.0, False)])
def test_readiness_follows_validity(remaining: float | None, ready: bool) -> None:
    w = World()
    w.journal.failed(AttemptError("x", "the CA is away"), 100.0, 1.0, remaining)
    w.journal.validity(remaining)
    w.journal.validity(remaining)
    assert w.readiness.value.ready is ready
    assert w.readiness.version == (not ready)  # told once
    if not ready:
        assert "the CA is away" in w.readiness.value.reason
        assert w.recorder.events()[-1].kind == "expired"
        w.journal.validity(10.0)
        assert w.readiness.value == Readiness(True)


def test_requests_are_counted_and_what_is_held_is_known_until_it_is_used() -> None:
    w = World()
    w.journal.calls.add(0.5, False)
    w.journal.calls.add(0.25, True)
    w.journal.held(500.0)
    calls = w.journal.calls
    assert (calls.requests, calls.failed, calls.seconds) == (2, 1, 0.75)
    assert w.journal.status.value.held_until == 500.0
    w.journal.issued(SECRET, True, "token", 1.0)
    assert w.journal.status.value.held_until == 0.0


def test_the_first_failure_in_a_row_tells_since_when() -> None:
    w = World()
    for now in (100.0, 200.0):
        w.journal.failed(AttemptError("x", "away"), now, 1.0, None)
    status = w.journal.status.value
    assert (status.failing_since, status.last_failed) == (100.0, 200.0)


def test_a_former_error_is_no_reason_for_a_later_expiry() -> None:
    w = World()
    w.journal.failed(AttemptError("x", "the CA was away"), 100.0, 1.0, None)
    w.journal.issued(SECRET, True, "token", 1.0)
    w.journal.validity(-1.0)
    assert "the CA was away" not in w.readiness.value.reason


def test_what_the_ca_refuses_is_known_until_it_accepts_it() -> None:
    w = World()
    for kind in ("token", "certificate", "token"):
        w.journal.refused(kind)
    assert w.journal.status.value.refused == ("certificate", "token")
    w.journal.issued(SECRET, False, "certificate", 1.0)
    assert w.journal.status.value.refused == ("token",)


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ([600, 501], []),
        ([500, 499, 260], [50]),
        ([500, 250, 240, 100, 50, 10, 5, 1], [50, 25, 10, 5, 1]),
        ([90, 80], [10]),  # the agent was stopped meanwhile
        ([500, 600, 500], [50]),  # a clock went back and forth
        ([0, -5], []),  # expiry has an event of its own
    ],
)
def test_an_outage_is_told_again_as_the_end_comes_nearer(left: list[float], told: list[int]) -> None:
    w = World()
    for _ in range(2):  # a new certificate begins at the top again
        for remaining in left:
            w.journal.failed(AttemptError("unavailable", "the CA is away"), 100.0, 1.0, remaining, 1000.0)
        w.journal.issued(SECRET, False, "token", 1.0)
    events = [e for e in w.recorder.events() if e.kind == "expiry-nears"]
    assert [e.fields["percent"] for e in events] == told * 2
    assert all("the CA is away" in e.message for e in events)


def test_a_flaw_of_the_certificate_in_use_is_told_once() -> None:
    w = World()
    for flaw in ("", "its issuer expired", "its issuer expired", "", "its issuer expired"):
        w.journal.inspected(flaw)
    assert w.kinds() == ["in-use-refused", "in-use-refused"]
    assert w.recorder.events()[0].message.endswith("although it has not expired: its issuer expired")


def test_the_rest_is_told_in_one_line_each() -> None:
    w = World()
    w.journal.jumped(-7200.4)
    w.journal.trusted(2)
    w.journal.rerooted()
    w.journal.distrusted()
    assert w.kinds() == ["clock-jumped", "trust-bundle", "roots-changed", "roots-dropped"]
    assert w.journal.status.value.clock_jumps == 1
    messages = [e.message for e in w.recorder.events()]
    assert "-7200 s" in messages[0]


def test_levels(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("agent").propagate = True
    w = World()
    w.journal.failed(AttemptError("x", "one"), 100.0, 1.0, None)
    w.journal.failed(AttemptError("x", "two"), 100.0, 1.0, None)
    assert [r.levelno for r in caplog.records] == [logging.WARNING, logging.WARNING]
