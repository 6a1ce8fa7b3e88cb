import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.sds import follow
from agent.sds.files import FileSecrets
from agent.sds.follow import Follower
from tests.fakes.ca import Root
from tests.fakes.waiting import eventually

ROOT = Root()


class World:
    """A pair of files that is followed."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.files = FileSecrets()
        self.looks = 0
        self.thorough = 0
        self.news = asyncio.Event()
        self.write()
        self.files.track("n", (str(tmp / "cert.pem"), str(tmp / "key.pem")))

    def write(self) -> bytes:
        key, cert = ROOT.workload("spiffe://x/y")
        (self.tmp / "key.pem").write_bytes(key)
        (self.tmp / "cert.pem").write_bytes(cert)
        return cert

    def paths(self) -> list[str]:
        return self.files.paths()

    def refresh(self, thorough: bool = False) -> bool:
        self.looks += 1
        self.thorough += thorough
        return self.files.refresh(thorough)

    async def told(self, chain: bytes) -> None:
        async with asyncio.timeout(20):
            while (content := self.files.get("n")) is None or content.chain != chain:
                await self.news.wait()
                self.news.clear()


@asynccontextmanager
async def following(world: World, debounce: float = 0.01) -> AsyncIterator[Follower]:
    follower = Follower(world, debounce, world.news.set)
    task = asyncio.ensure_future(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task.exception()


def test_a_change_is_seen_and_what_is_none_is_not_looked_for(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with following(world) as follower:
            await eventually(lambda: world.looks > 0)
            for _ in range(3):
                (tmp_path / "other").write_bytes(b"nobody's business")
                await world.told(world.write())
            assert follower.failures == 0
            assert world.looks <= 10

    asyncio.run(main())


def test_a_pair_in_the_middle_of_a_change_is_read_again_until_it_matches(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with following(world):
            await eventually(lambda: world.looks > 0)
            key, cert = ROOT.workload("spiffe://x/z")
            (tmp_path / "cert.pem").write_bytes(cert[:100])
            await eventually(lambda: "whole PEM certificate" in world.files.problem("n"))
            assert world.files.unsettled
            (tmp_path / "cert.pem").write_bytes(cert)
            await eventually(lambda: "is not the key of" in world.files.problem("n"))
            assert world.files.unsettled
            (tmp_path / "key.pem").write_bytes(key)
            await world.told(cert)
            assert not world.files.unsettled

    asyncio.run(main())


def test_names_that_come_later_are_followed_too(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        (tmp_path / "later").mkdir()
        async with following(world):
            await eventually(lambda: world.looks > 0)
            before = world.looks
            world.files.track("root", (str(tmp_path / "later" / "root.pem"),), quiet=True)
            await eventually(lambda: world.looks > before)
            (tmp_path / "later" / "root.pem").write_bytes(ROOT.pem)
            async with asyncio.timeout(follow.THOROUGH - 1):
                await world.news.wait()
            assert world.files.get("root") is not None

    asyncio.run(main())


def test_a_long_debounce_delays_retries_and_not_what_is_whole(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with following(world, debounce=3600.0):
            await eventually(lambda: world.looks > 0)
            await world.told(world.write())

    asyncio.run(main())


def test_what_a_newcomer_found_is_told_to_those_who_waited(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        root = (str(tmp_path / "root.pem"),)
        world.files.track("root", root)
        async with following(world):
            await eventually(lambda: world.looks > 0)
            (tmp_path / "root.pem").write_bytes(ROOT.pem)
            world.files.track("root", root)  # before the follower could look
            async with asyncio.timeout(10):
                await world.news.wait()

    asyncio.run(main())


def test_what_the_kernel_does_not_tell_is_found_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.sds.follow.THOROUGH", 0.1)

    async def main() -> None:
        world = World(tmp_path)
        async with following(world) as follower:
            await eventually(lambda: world.looks > 0)
            assert follower._watcher is not None
            assert follower._watcher._inotify is not None
            asyncio.get_running_loop().remove_reader(follower._watcher._inotify.fd)  # a deaf watch
            times = os.stat(tmp_path / "cert.pem")
            cert = (tmp_path / "cert.pem").read_bytes() + ROOT.pem
            (tmp_path / "cert.pem").write_bytes(cert)
            os.utime(tmp_path / "cert.pem", ns=(times.st_atime_ns, times.st_mtime_ns))
            await world.told(cert)
            assert world.thorough

    asyncio.run(main())


def test_without_inotify_files_are_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("agent.sds.watch.Inotify.__init__", refuse)
    monkeypatch.setattr("agent.sds.follow.POLL", 0.01)
    monkeypatch.setattr("agent.sds.follow.THOROUGH", 3600.0)

    async def main() -> None:
        world = World(tmp_path)
        async with following(world) as follower:
            for _ in range(2):
                await eventually(lambda: world.looks > 0)
                await world.told(world.write())
            assert follower.failures == 1

    asyncio.run(main())
