import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent.sds import follow
from agent.sds.files import FileSecrets
from agent.sds.follow import Follower
from tests.fakes.ca import Root

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


def test_a_change_is_seen_and_quiet_files_are_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with following(world) as follower:
            await asyncio.sleep(0.2)
            idle = world.looks
            assert idle <= 3, "nobody touched the files"
            for _ in range(3):
                await world.told(world.write())
            assert follower.failures == 0

    asyncio.run(main())


def test_a_pair_in_the_middle_of_a_change_is_read_again_until_it_matches(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with following(world):
            await asyncio.sleep(0.05)
            key, cert = ROOT.workload("spiffe://x/z")
            (tmp_path / "cert.pem").write_bytes(cert[:100])
            await asyncio.sleep(0.1)
            assert world.files.unsettled
            (tmp_path / "cert.pem").write_bytes(cert)
            await asyncio.sleep(0.1)
            assert world.files.unsettled, "the key is still the old one"
            (tmp_path / "key.pem").write_bytes(key)
            await world.told(cert)

    asyncio.run(main())


def test_names_that_come_later_are_followed_too(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with following(world):
            await asyncio.sleep(0.05)
            world.files.track("root", (str(tmp_path / "root.pem"),))
            await asyncio.sleep(0.05)
            (tmp_path / "root.pem").write_bytes(ROOT.pem)
            async with asyncio.timeout(10):
                await world.news.wait()
            assert world.files.get("root") is not None

    asyncio.run(main())


def test_what_the_kernel_does_not_tell_is_found_by_content(tmp_path: Path) -> None:
    async def main() -> None:
        world, old = World(tmp_path), follow.THOROUGH
        follow.THOROUGH = 0.2
        try:
            async with following(world) as follower:
                await asyncio.sleep(0.05)
                assert follower._watcher is not None
                assert follower._watcher._inotify is not None
                asyncio.get_running_loop().remove_reader(follower._watcher._inotify.fd)  # a deaf watch
                times = os.stat(tmp_path / "cert.pem")
                cert = (tmp_path / "cert.pem").read_bytes() + ROOT.pem
                (tmp_path / "cert.pem").write_bytes(cert)
                os.utime(tmp_path / "cert.pem", ns=(times.st_atime_ns, times.st_mtime_ns))
                await world.told(cert)
                assert world.thorough
        finally:
            follow.THOROUGH = old

    asyncio.run(main())
