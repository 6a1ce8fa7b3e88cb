import asyncio

from agent.latest import Latest


def test_a_watcher_sees_the_current_value_first_and_skips_what_it_was_too_slow_for() -> None:
    async def scenario() -> list[int]:
        latest = Latest(0)
        seen: list[int] = []
        arrived = asyncio.Event()

        async def watcher() -> None:
            async for value in latest.watch():
                seen.append(value)
                arrived.set()
                if value == 3:
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(watcher())
            await arrived.wait()
            for value in (1, 2, 3):
                latest.set(value)
        return seen

    assert asyncio.run(scenario()) == [0, 3]


def test_an_equal_value_is_still_news() -> None:
    async def scenario() -> int:
        latest = Latest("same")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(latest.changed(latest.version))
            await asyncio.sleep(0)
            latest.set("same")
        return task.result()

    assert asyncio.run(scenario()) == 1


def test_until_returns_at_once_when_the_value_already_fits() -> None:
    assert asyncio.run(Latest(7).until(lambda v: v == 7)) == 7


def test_until_waits_for_the_first_value_that_fits() -> None:
    async def scenario() -> int:
        latest = Latest(0)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(latest.until(lambda v: v > 1))
            for value in (1, 2):
                await asyncio.sleep(0)
                latest.set(value)
        return task.result()

    assert asyncio.run(scenario()) == 2


def test_a_cancelled_watcher_is_forgotten() -> None:
    async def scenario() -> str:
        latest = Latest(0)
        task = asyncio.get_running_loop().create_task(latest.changed(0))
        await asyncio.sleep(0)
        assert repr(latest) == "Latest(version=0, watchers=1)"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return repr(latest)

    assert asyncio.run(scenario()) == "Latest(version=0, watchers=0)"


def test_repr_never_shows_the_value() -> None:
    assert "hunter2" not in repr(Latest("hunter2"))


def test_a_listener_hears_of_a_value_before_set_returns_and_only_while_it_listens() -> None:
    latest = Latest(0)
    heard: list[int] = []
    with latest.listening(lambda: heard.append(latest.value)):
        latest.set(1)
        assert heard == [1]
        latest.set(2)
    latest.set(3)
    assert heard == [1, 2]
