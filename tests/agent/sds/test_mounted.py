"""News of mounted certificates: each once, and only of what is served."""

import asyncio
import time
from pathlib import Path

from agent.events import Recorder
from agent.sds.files import FileSecrets
from agent.sds.mounted import MOST, Mounted
from tests.fakes.ca import Root
from tests.fakes.waiting import eventually

ROOT = Root()


class World:
    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.recorder = Recorder()
        self.files = FileSecrets()
        self.mounted = Mounted(self.files, self.recorder)

    def write(self, ttl: float = 3600.0) -> None:
        key, cert = ROOT.workload("spiffe://mounted/x", ttl)
        (self.tmp / "k").write_bytes(key)
        (self.tmp / "c").write_bytes(cert)

    def track(self, name: str = "default") -> None:
        self.files.track(name, (str(self.tmp / "c"), str(self.tmp / "k")), quiet=True)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.recorder.events()]


def test_it_is_told_when_it_comes_and_when_it_is_replaced(tmp_path: Path) -> None:
    w = World(tmp_path)
    w.track()
    assert (w.kinds(), w.mounted.ends()) == ([], {})
    w.write()
    w.files.refresh()
    w.files.refresh(thorough=True)
    first = w.mounted.ends()
    assert first["default"] > time.time() + 3500
    w.write(7200.0)
    w.files.refresh()
    assert w.kinds() == ["mounted", "mounted-replaced"]
    assert w.mounted.ends()["default"] > first["default"]
    serials = [event.fields["serial"] for event in w.recorder.events()]
    assert len({*serials}) == 2
    assert str(serials[1]) in w.recorder.events()[1].message
    assert "PRIVATE" not in w.recorder.to_json()


def test_who_comes_back_for_the_same_is_no_news_and_who_left_no_number(tmp_path: Path) -> None:
    w = World(tmp_path)
    w.write()
    w.track()
    w.files.untrack("default")
    assert w.mounted.ends() == {}
    w.track()
    assert w.kinds() == ["mounted"]
    assert w.mounted.ends().keys() == {"default"}


def test_roots_have_an_end_and_are_no_news(tmp_path: Path) -> None:
    w = World(tmp_path)
    soon = Root("soon", days=1)
    (tmp_path / "r").write_bytes(ROOT.pem + soon.pem)
    w.files.track("ROOTCA", (str(tmp_path / "r"),))
    assert w.mounted.ends() == {"ROOTCA": soon.certificate.not_valid_after_utc.timestamp()}
    assert w.kinds() == []


def test_expiry_is_told_once_when_it_happens(tmp_path: Path) -> None:
    async def main() -> None:
        w = World(tmp_path)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(w.mounted.run())
            await asyncio.sleep(0)  # it waits, without anything to wait for
            w.write(1.0)
            w.track()
            w.track("other")
            await eventually(lambda: w.kinds().count("mounted-expired") == 2)
            w.mounted._look(time.time())
            w.write(3600.0)
            w.files.refresh()
            task.cancel()
        assert w.kinds() == ["mounted", "mounted", *["mounted-expired"] * 2, *["mounted-replaced"] * 2]
        assert {e.level for e in w.recorder.events() if e.kind == "mounted-expired"} == {"error"}

    asyncio.run(main())


def test_names_of_clients_are_bounded_and_shown_on_one_line(tmp_path: Path) -> None:
    w = World(tmp_path)
    w.write()
    for i in range(2 * MOST):
        w.track(f"evil\n{i}")
    assert len(w.mounted.ends()) == MOST
    assert all(name.isprintable() for name in w.mounted.ends())
    assert all(event.message.isprintable() for event in w.recorder.events())
