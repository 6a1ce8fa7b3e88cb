from agent.dns.pool import DOWN_AFTER, PENALTY, Pool
from agent.events import Recorder


def test_the_order_is_random_and_the_failed_stand_back_for_a_while() -> None:
    pool = Pool(["127.0.0.1", "127.0.0.2", "::1"], 53, Recorder())
    assert len({tuple(s.text for s in pool.order(0.0)) for _ in range(200)}) == 6
    bad = next(s for s in pool.order(0.0) if s.text == "127.0.0.2")
    pool.failed(bad, "refused", 100.0)
    assert {pool.order(100.0 + PENALTY / 2)[-1].text for _ in range(50)} == {"127.0.0.2"}
    assert len({pool.order(100.0 + PENALTY)[-1].text for _ in range(200)}) == 3
    pool.failed(bad, "refused", 200.0)
    pool.worked(bad)
    assert len({pool.order(200.0)[-1].text for _ in range(200)}) == 3


def test_going_down_and_coming_back_are_recorded_once() -> None:
    recorder = Recorder()
    pool = Pool(["127.0.0.1"], 53, recorder)
    (server,) = pool.order(0.0)
    pool.worked(server)
    for _ in range(DOWN_AFTER * 2):
        pool.failed(server, "no answer", 0.0)
    pool.worked(server)
    pool.worked(server)
    assert [(e.kind, e.fields) for e in recorder.events()] == [
        ("resolver-down", {"server": "127.0.0.1"}),
        ("resolver-up", {"server": "127.0.0.1"}),
    ]
