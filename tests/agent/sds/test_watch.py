import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sds import watch
from agent.sds.watch import Watcher, entries


def seen(tmp: Path, path: str) -> dict[str, set[str]]:
    """Entries below the test's own directory, relative to it."""
    return {os.path.relpath(d, tmp): names for d, names in entries(path).items() if Path(d).is_relative_to(tmp)}


def test_a_plain_file_is_an_entry_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert seen(tmp_path, f"{tmp_path}/a") == {".": {"a"}}
    assert seen(tmp_path, f"{tmp_path}/b/../a") == {".": {"a"}}
    assert seen(tmp_path, f"{tmp_path}/missing/x/y") == {".": {"missing"}}


def test_every_link_on_the_way_counts(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "file").write_text("")
    (tmp_path / "one").symlink_to("real/deep")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "link").symlink_to("two/file")
    (tmp_path / "up").symlink_to("real/../link")
    way = {".": {"link", "two", "one"}, "real/deep": {"file"}}
    assert seen(tmp_path, f"{tmp_path}/link") == way
    assert seen(tmp_path, f"{tmp_path}/up") == {**way, ".": way["."] | {"up"}}
    (tmp_path / "broken").symlink_to("nowhere/file")
    assert seen(tmp_path, f"{tmp_path}/broken") == {".": {"broken", "nowhere"}}
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert seen(tmp_path, f"{tmp_path}/a") == {".": {"a", "b"}}


def kubelet(folder: Path, version: str) -> None:
    """What the kubelet does to a volume: a new directory, and `..data` renamed over the old link."""
    new = folder / f"..{version}"
    new.mkdir(parents=True)
    (new / "cert.pem").write_text(version)
    (folder / "..tmp").symlink_to(new.name)
    os.rename(folder / "..tmp", folder / "..data")
    if not (folder / "cert.pem").is_symlink():
        (folder / "cert.pem").symlink_to("..data/cert.pem")


def test_a_kubelet_volume(tmp_path: Path) -> None:
    kubelet(tmp_path, "v1")
    assert seen(tmp_path, f"{tmp_path}/cert.pem") == {".": {"cert.pem", "..data"}, "..v1": {"cert.pem"}}


def rewrite(folder: Path) -> None:
    (folder / "cert.pem").write_text("new")


def replace(folder: Path) -> None:
    (folder / "tmp").write_text("new")
    os.rename(folder / "tmp", folder / "cert.pem")


def remove(folder: Path) -> None:
    (folder / "cert.pem").unlink()


def touch_mode(folder: Path) -> None:
    (folder / "cert.pem").chmod(0o600)


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def move_folder(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")


async def read() -> None:
    """The kernel queues an event before the call that causes it returns: the loop's next turn reads it."""
    for _ in range(3):
        await asyncio.sleep(0)


async def told(changed: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await changed.wait()
    changed.clear()


@pytest.mark.parametrize("change", [rewrite, replace, remove, touch_mode, remove_folder, move_folder])
def test_changes_are_told(tmp_path: Path, change: Callable[[Path], None]) -> None:
    async def main() -> None:
        folder, changed = tmp_path / "x", asyncio.Event()
        folder.mkdir()
        (folder / "cert.pem").write_text("old")
        with Watcher(changed) as watcher:
            assert watcher.follow([f"{folder}/cert.pem"])
            (folder / "other").write_text("nobody's business")
            await read()
            assert not changed.is_set()
            change(folder)
            await told(changed)
            if not folder.exists():
                # It returns: the directory above tells.
                assert watcher.follow([f"{folder}/cert.pem"])
                await read()
                changed.clear()
                folder.mkdir()
                await told(changed)
                assert watcher.follow([f"{folder}/cert.pem"])
                rewrite(folder)
                await told(changed)
            assert watcher.failures == 0

    asyncio.run(main())


def test_kubelet_swaps_are_told_again_and_again(tmp_path: Path) -> None:
    async def main() -> None:
        changed = asyncio.Event()
        kubelet(tmp_path, "v1")
        with Watcher(changed) as watcher:
            for version in ("v2", "v3", "v4"):
                assert watcher.follow([f"{tmp_path}/cert.pem"])
                await read()
                changed.clear()
                kubelet(tmp_path, version)
                await told(changed)
            (tmp_path / "..v4" / "cert.pem").chmod(0o600)
            watcher.follow([f"{tmp_path}/cert.pem"])
            (tmp_path / "..v4" / "cert.pem").chmod(0o644)
            await told(changed)

    asyncio.run(main())


def test_what_is_followed_no_longer_is_silent(tmp_path: Path) -> None:
    async def main() -> None:
        changed = asyncio.Event()
        with Watcher(changed) as watcher:
            watcher.follow([f"{tmp_path}/a", f"{tmp_path}/b"])
            watcher.follow([f"{tmp_path}/b"])
            (tmp_path / "a").write_text("")
            await read()
            assert not changed.is_set()
            assert watcher.follow([])
            (tmp_path / "b").write_text("")
            await read()
            assert not changed.is_set()

    asyncio.run(main())


def test_events_that_the_kernel_lost_may_have_been_ours(tmp_path: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    others = [tmp_path / "x", tmp_path / "y"]
    for path in others:
        path.write_text("")

    async def main() -> None:
        changed = asyncio.Event()
        with Watcher(changed) as watcher:
            assert watcher.follow([f"{tmp_path}/a"])
            for path in others:
                os.utime(path)
            await read()
            assert not changed.is_set()
            for _ in range(limit // 2 + 1):
                for path in others:  # equal events in a row would be one
                    os.utime(path)
            await told(changed)

    asyncio.run(main())


def test_a_directory_that_cannot_be_watched_is_counted_and_tried_again(tmp_path: Path) -> None:
    class Refusing(watch.Inotify):
        refuse = True

        def add(self, directory: str) -> int:
            if self.refuse:
                raise OSError(28, "No space left on device")
            return super().add(directory)

    async def main() -> None:
        changed = asyncio.Event()
        with Watcher(changed) as watcher:
            assert watcher._inotify is not None
            watcher._inotify.close()
            asyncio.get_running_loop().remove_reader(watcher._inotify.fd)
            watcher._inotify = kernel = Refusing()
            asyncio.get_running_loop().add_reader(kernel.fd, watcher._read)
            assert not watcher.follow([f"{tmp_path}/a"])
            assert not watcher.follow([f"{tmp_path}/a"])
            assert watcher.failures == 2
            kernel.refuse = False
            assert watcher.follow([f"{tmp_path}/a"])
            (tmp_path / "a").write_text("")
            await told(changed)

    asyncio.run(main())


@given(st.text(alphabet="ab./\0é", max_size=20))
def test_any_path_has_entries(path: str) -> None:
    assert all(names for names in entries(path).values())
