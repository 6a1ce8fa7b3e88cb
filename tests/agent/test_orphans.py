import asyncio
import os
import subprocess

from agent.orphans import Reaper, children, zombies


def fork_and_die() -> int:
    """A dead child that nobody waits for."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


async def reap_until(reaper: Reaper, count: int) -> None:
    await reaper.start()
    task = asyncio.create_task(reaper.run())
    async with asyncio.timeout(10):
        while reaper.reaped < count:
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_dead_children_are_found_and_left_alone() -> None:
    pid = fork_and_die()
    assert pid in children()
    assert zombies([pid, os.getpid(), 1]) == [pid]
    assert os.waitpid(pid, 0) == (pid, 3 << 8)
    assert zombies([pid]) == []


def test_orphans_are_collected_also_those_from_before() -> None:
    pids = [fork_and_die() for _ in range(5)]
    asyncio.run(reap_until(Reaper(patience=0.01), 5))
    assert not set(pids) & set(children())


def test_one_process_is_spared() -> None:
    envoy, orphan = fork_and_die(), fork_and_die()
    asyncio.run(reap_until(Reaper(lambda: envoy, patience=0.01), 1))
    assert orphan not in children()
    assert os.waitpid(envoy, 0) == (envoy, 3 << 8)


def test_whoever_waits_gets_the_status() -> None:
    async def run() -> None:
        reaper = Reaper(patience=0.5)
        await reaper.start()
        task = asyncio.create_task(reaper.run())
        for _ in range(10):
            child = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
            assert await child.wait() == 7
            done = await asyncio.to_thread(subprocess.run, ["sh", "-c", "exit 9"], check=False)
            assert done.returncode == 9
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert reaper.reaped == 0

    asyncio.run(run())
