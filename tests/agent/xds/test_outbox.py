import asyncio

from agent.xds.outbox import Outbox


def drain(outbox):
    async def take():
        return [await outbox.get() for _ in range(len(outbox))]

    return asyncio.run(take())


def fill(*frames):
    outbox = Outbox()
    for frame in frames:
        outbox.put(frame)
    return outbox


def test_frames_come_in_order():
    assert drain(fill(b"1", b"2", b"3")) == [b"1", b"2", b"3"]


def test_get_waits_for_a_frame():
    async def meet():
        outbox = Outbox()
        getting = asyncio.create_task(outbox.get())
        await asyncio.sleep(0)
        assert not getting.done()
        outbox.put(b"1")
        return await getting

    assert asyncio.run(meet()) == b"1"


def test_what_nobody_answered_comes_again_before_what_is_new():
    outbox = fill(b"1", b"2")
    drain(outbox)
    outbox.put(b"3")
    outbox.rewind()
    assert drain(outbox) == [b"1", b"2", b"3"]
    outbox.rewind()
    assert drain(outbox) == [b"1", b"2", b"3"]


def test_what_was_answered_is_forgotten():
    outbox = fill(b"1")
    drain(outbox)
    outbox.settle()
    outbox.put(b"2")
    outbox.rewind()
    assert drain(outbox) == [b"2"]


def test_size_is_what_is_held():
    outbox = fill(b"aa", b"bbb", b"c")
    assert outbox.size == 6
    asyncio.run(outbox.get())
    assert (outbox.size, outbox.unanswered) == (6, True)  # it may have to be repeated
    outbox.settle()
    assert (outbox.size, outbox.unanswered) == (4, False)
    asyncio.run(outbox.get())
    assert outbox.size == 1


def test_size_after_keeping_the_first():
    outbox = fill(b"aa", b"bbb")
    asyncio.run(outbox.get())
    outbox.keep_first()
    assert (outbox.size, len(outbox)) == (2, 1)


def test_what_can_be_sent_at_once_waits_for_nobody():
    outbox, sent, room = fill(b"1"), [], [True]
    outbox.direct = lambda frame: room[0] and not sent.append(frame)
    outbox.put(b"2")  # not before the one that waits
    assert (sent, drain(outbox)) == ([], [b"1", b"2"])
    outbox.put(b"3")
    room[0] = False
    outbox.put(b"4")
    room[0] = True
    outbox.put(b"5")
    assert (sent, len(outbox)) == ([b"3"], 2)
    outbox.direct = None
    outbox.rewind()  # nobody has answered
    assert (drain(outbox), outbox.size) == ([b"1", b"2", b"3", b"4", b"5"], 5)


def test_what_was_sent_at_once_is_held_until_somebody_answers():
    outbox = Outbox()
    outbox.direct = lambda _: True
    outbox.put(b"12")
    assert (outbox.unanswered, outbox.size) == (True, 2)
    outbox.settle()
    outbox.put(b"34")
    assert (outbox.unanswered, outbox.size) == (False, 0)
