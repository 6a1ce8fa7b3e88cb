import asyncio

from agent.xds import heap


def test_trims_once_after_a_burst(monkeypatch):
    monkeypatch.setattr(heap, "QUIET", 0.01)

    async def burst():
        trimmer = heap.HeapTrimmer()
        running = asyncio.create_task(trimmer.run())
        for _ in range(3):
            trimmer.note(heap.BIG)
        async with asyncio.timeout(10):
            while not trimmer.trims:
                await asyncio.sleep(0.005)
        trimmer.note(heap.BIG - 1)
        await asyncio.sleep(0.05)
        running.cancel()
        return trimmer.trims

    assert asyncio.run(burst()) == 1


def test_traffic_that_never_rests_is_trimmed_all_the_same(monkeypatch):
    monkeypatch.setattr(heap, "QUIET", 0.01)
    monkeypatch.setattr(heap, "LATEST", 0.05)

    async def stream():
        trimmer = heap.HeapTrimmer()
        running = asyncio.create_task(trimmer.run())
        async with asyncio.timeout(10):
            while not trimmer.trims:
                trimmer.note(heap.BIG)
                await asyncio.sleep(0.001)
        running.cancel()

    asyncio.run(stream())


def test_tuning_is_accepted():
    heap.tune()
