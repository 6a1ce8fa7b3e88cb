from agent.sds.ledger import SEND_TIMES, Ledger


def test_the_largest_request_counts() -> None:
    ledger = Ledger()
    for size in (100, 300, 200):
        ledger.received(size)
    assert ledger.largest == 300


def test_send_times_are_cumulative() -> None:
    ledger = Ledger()
    for seconds in (0.0, 0.01, 0.02, 2.0, 100.0):
        ledger.sent(seconds)
    counts = dict(ledger.send_times())
    assert list(counts) == [*SEND_TIMES, float("inf")]
    assert (counts[0.01], counts[0.1], counts[1.0], counts[3.0], counts[30.0]) == (2, 3, 3, 4, 4)
    assert counts[float("inf")] == 5
    assert ledger.send_seconds == 102.03
