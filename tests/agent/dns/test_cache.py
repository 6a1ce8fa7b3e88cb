from agent.dns import message
from agent.dns.answer import Answer
from agent.dns.cache import AnswerCache

QUERY = message.Query(0, "a", 1, 1, b"\1a\0\0\1\0\1", 0, False)


def answer(addresses: int) -> Answer:
    return Answer(b"head", b"0123456789abcdef" * addresses * 2, 16, addresses, addresses, 0, b"tail")


def test_each_kind_is_kept_in_its_cheapest_form() -> None:
    cache, many = AnswerCache(), answer(3)
    cache.add(b"forward", QUERY)
    cache.add(b"one", answer(1))
    cache.add(b"many", many)
    assert cache.get(b"forward") is QUERY
    assert cache.get(b"one") == b"head0123456789abcdeftail"
    assert cache.get(b"many") is many
    assert cache.get(b"other") is None


def test_entries_are_bounded() -> None:
    cache = AnswerCache(entries=10)
    for i in range(25):
        cache.add(b"%d" % i, QUERY)
        assert len(cache) <= 10
        assert cache.get(b"%d" % i) is QUERY


def test_bytes_are_bounded() -> None:
    cache = AnswerCache(weight=50_000)
    for i in range(100):
        cache.add(b"%d" % i, answer(200))
        assert len(cache) < 8
    cache.clear()
    assert len(cache) == 0
