import asyncio
import os
import time

import pytest

from agent.health.command import run


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", ""),
        ("exit 3", "exit status 3"),
        ("kill -9 $$", "the command was ended by SIGKILL"),
        ('test "$WHO" = me', ""),
        ("cat", ""),  # nothing to read, so it ends
        ("echo noise; echo noise >&2", ""),
    ],
)
def test_status(script, said):
    assert asyncio.run(run(["sh", "-c", script], {"PATH": os.environ["PATH"], "WHO": "me"})) == said


def test_a_program_that_does_not_exist():
    with pytest.raises(FileNotFoundError):
        asyncio.run(run(["/no/such/program"], {}))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid):
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


@pytest.mark.parametrize("script", ["sleep 60 & echo $! > {0}; wait", "sleep 60 & echo $! > {0}"])
def test_nothing_of_it_outlives_the_probe(tmp_path, script):
    """Neither when the time is up, nor when it left something in the background."""
    note = tmp_path / "pid"

    async def go():
        try:
            async with asyncio.timeout(1):
                await run(["sh", "-c", script.format(note)], dict(os.environ))
        except TimeoutError:
            return

    asyncio.run(go())
    assert gone(int(note.read_text()))
