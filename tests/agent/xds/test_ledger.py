from agent.xds.ending import AGENT, ENVOY, PLANE, Ending
from agent.xds.ledger import MOST_TYPES, OTHER, Ledger, short
from agent.xds.wire import LISTENER, Head


def test_a_push_that_is_accepted():
    ledger = Ledger()
    ledger.requested(Head(LISTENER), 10, 1.0)
    ledger.responded(Head(LISTENER, "n1", "v1"), 2000, 2.0)
    ledger.requested(Head(LISTENER, "n1"), 5, 3.0)
    one = ledger.types[LISTENER]
    assert (one.pushes, one.bytes, one.last_bytes, one.pushed) == (1, 2000, 2000, 2.0)
    assert (one.acked, one.acked_version, one.nacked, one.error) == (3.0, "v1", None, "")
    assert (ledger.requests, ledger.responses, ledger.bytes_up, ledger.bytes_down) == (2, 1, 15, 2000)
    assert ledger.heard == 2.0


def test_a_push_that_is_refused_and_its_successor():
    ledger = Ledger()
    ledger.responded(Head(LISTENER, "n1", "v1"), 10, 1.0)
    ledger.requested(Head(LISTENER, "n1", "v0", "bad listener"), 5, 2.0)
    one = ledger.types[LISTENER]
    assert (one.nacked, one.nacks, one.error, one.acked) == (2.0, 1, "bad listener", None)
    assert ledger.nacks() == {"Listener": 1}
    ledger.responded(Head(LISTENER, "n2", "v2"), 10, 3.0)
    ledger.requested(Head(LISTENER, "n2", "v2"), 5, 4.0)
    assert (one.acked_version, one.error, one.nacks) == ("v2", "", 1)


def test_an_acknowledgement_of_something_older_names_its_own_version():
    ledger = Ledger()
    ledger.responded(Head(LISTENER, "n1", "v1"), 10, 1.0)
    ledger.responded(Head(LISTENER, "n2", "v2"), 10, 2.0)
    ledger.requested(Head(LISTENER, "n1", "v1"), 5, 3.0)
    assert ledger.types[LISTENER].acked_version == "v1"


def test_endings():
    ledger = Ledger()
    for ending in (
        Ending(by=PLANE),
        Ending("UNAVAILABLE", "transport is closing", by=PLANE),
        Ending("INTERNAL", "x", by=PLANE),
        Ending("CANCELLED", by=ENVOY),
        Ending("UNAVAILABLE", "x", by=AGENT),
    ):
        ledger.ended(ending)
    assert ledger.terminations == {("istiod", "cancelled"): 1, ("istiod", "error"): 1, ("envoy", "cancelled"): 1}


def test_sizes():
    ledger = Ledger()
    for size in (0, 1024, 1025, 5 << 20, 1 << 30):
        ledger.responded(Head(LISTENER), size, 0.0)
    assert [count for _, count in ledger.buckets()] == [2, 3, 3, 3, 4, 4, 5]


def test_invented_types_do_not_fill_memory():
    ledger = Ledger()
    for i in range(MOST_TYPES * 3):
        ledger.responded(Head(f"type.googleapis.com/envoy.x.Type{i}"), 1, 0.0)
    assert len(ledger.types) == MOST_TYPES + 1
    assert ledger.types[OTHER].pushes == MOST_TYPES * 2


def test_short_names():
    assert [short(name) for name in (LISTENER, "", "x")] == ["Listener", "none", "x"]
