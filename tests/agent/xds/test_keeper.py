import asyncio
import logging

import pytest

from agent.config import XdsCacheConfig
from agent.errors import FatalError
from agent.events import Recorder
from agent.latest import Latest
from agent.model import XdsStatus
from agent.xds import keeper as module
from agent.xds.cache import CLUSTER
from agent.xds.keeper import CacheReport, Keeper
from agent.xds.slices import Parts
from agent.xds.wire import NAME_TABLE, Flavour


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class Rig:
    """A keeper with a clock that is moved by hand."""

    def __init__(self, folder="", **changes):
        config = XdsCacheConfig(**{"state_dir": str(folder), "allow_disk": True, "owner": "me", **changes})
        self.status, self.recorder, self.clock = Latest(XdsStatus()), Recorder(), Clock()
        self.keeper = Keeper(config, self.status, self.recorder, self.clock)

    def fill(self, names="ab", entry=b"12345"):
        rows = tuple((name, entry) for name in names)
        self.keeper.cache.accepted_delta(CLUSTER, Parts(rows, (), "v"), set(), wildcard=True)
        self.keeper.noticed()

    def kinds(self):
        return [(event.kind, event.message) for event in self.recorder.events()]


def test_its_age_counts_from_when_the_control_plane_was_last_heard():
    rig = Rig(max_age=60)
    rig.fill()
    tracker = rig.keeper.tracker(Flavour.DELTA)
    rig.keeper.live(tracker)
    rig.clock.now += 1000
    assert rig.keeper.age == 0
    assert rig.keeper.report() == CacheReport("live", "", 12, 2, 0.0)
    rig.keeper.ended(tracker)
    rig.clock.now += 59
    assert rig.keeper.usable(Flavour.DELTA)
    assert not rig.keeper.usable(Flavour.SOTW)
    rig.clock.now += 1
    assert not rig.keeper.usable(Flavour.DELTA)
    assert rig.keeper.report().state == "expired"
    rig.clock.now -= 1000  # a clock that goes back does not make it younger than new
    assert rig.keeper.age == 0


def test_an_outage_is_said_once_and_its_end_too():
    rig = Rig()
    rig.fill()
    rig.keeper.live(tracker := rig.keeper.tracker(Flavour.DELTA))
    rig.keeper.ended(tracker)
    rig.clock.now += 5
    rig.keeper.stale("nobody answers")
    rig.keeper.stale("nobody answers still")
    assert rig.status.value.stale
    assert rig.status.value.cached_at == 1_000_000.0
    assert rig.keeper.report().state == "stale"
    rig.clock.now += 5
    rig.keeper.live(rig.keeper.tracker(Flavour.DELTA))
    assert not rig.status.value.stale
    assert rig.kinds() == [
        ("stale", "Envoy is served the configuration that it accepted last, 5 s old: nobody answers"),
        ("live", "Envoy has the control plane's own configuration again, after 10 s."),
    ]
    assert [event.fields for event in rig.recorder.events()] == [{"age": 5}, {"away": 10.0}]


def test_too_much_is_said_once():
    rig = Rig(max_bytes=20)
    rig.fill("abcd")
    rig.keeper.noticed()
    [(kind, message)] = rig.kinds()
    assert kind == "cache-off"
    assert message.endswith("larger than XDS_CACHE_MAX_BYTES (20).")
    assert rig.keeper.report() == CacheReport("off", rig.keeper.cache.off, 0, 0, 0.0)


def test_switched_off_it_says_nothing():
    rig = Rig(enabled=False)
    assert rig.keeper.start() is None
    rig.keeper.noticed()
    assert rig.kinds() == []
    assert rig.keeper.report().reason == "XDS_CACHE is off"


def run_for(keeper, until):
    async def go():
        running = asyncio.create_task(keeper.run())
        try:
            async with asyncio.timeout(10):
                await asyncio.sleep(0)
                while not until():
                    await asyncio.sleep(0.01)
        finally:
            running.cancel()
            await asyncio.wait({running})

    asyncio.run(go())


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(module, "SETTLE", 0.01)
    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(module, "BEAT", 0.05)


def test_what_is_kept_survives_the_agent(tmp_path, hurried):
    rig = Rig(tmp_path)
    assert rig.keeper.start() is None
    rig.keeper.live(tracker := rig.keeper.tracker(Flavour.DELTA))
    rig.fill()
    rig.keeper.took_names(b"names")
    run_for(rig.keeper, lambda: len(list((tmp_path / "xds").iterdir())) == 3)
    rig.keeper.ended(tracker)

    later = Rig(tmp_path)
    later.clock.now += 100
    assert later.keeper.start() == b"names"
    assert later.keeper.usable(Flavour.DELTA)
    assert later.keeper.age == 100
    assert later.keeper.cache.types()[CLUSTER].entries == {"a": b"12345", "b": b"12345"}
    assert [event.fields for event in later.recorder.events()] == [{"age": 100, "types": 1}]
    assert NAME_TABLE not in later.keeper.cache.types()


def test_what_is_too_old_is_not_used(tmp_path, hurried, caplog):
    rig = Rig(tmp_path)
    rig.keeper.start()
    rig.keeper.live(rig.keeper.tracker(Flavour.DELTA))
    rig.fill()
    run_for(rig.keeper, lambda: len(list((tmp_path / "xds").iterdir())) == 2)
    later = Rig(tmp_path, max_age=50)
    later.clock.now += 51
    with caplog.at_level(logging.WARNING):
        assert later.keeper.start() is None
    assert not later.keeper.usable(Flavour.DELTA)
    assert "older than XDS_CACHE_MAX_AGE" in caplog.text


def test_files_follow_the_cache_also_when_it_ends(tmp_path, hurried):
    folder = tmp_path / "xds"
    rig = Rig(tmp_path, max_bytes=20)
    rig.keeper.start()
    rig.fill("a")
    run_for(rig.keeper, lambda: any(folder.glob("*.xds")))
    rig.fill("bcde")
    run_for(rig.keeper, lambda: True)  # the last look is behind the end
    assert not any(folder.glob("*.xds"))


def test_an_incomplete_type_has_no_file(tmp_path, hurried):
    rig = Rig(tmp_path)
    rig.keeper.start()
    rig.keeper.cache.accepted_delta(CLUSTER, Parts((("a", b"1"),), (), ""), set(), wildcard=True, held=frozenset("z"))
    rig.keeper.noticed()
    run_for(rig.keeper, lambda: True)
    assert not any((tmp_path / "xds").glob("*.xds"))


def test_a_folder_that_goes_away_is_worth_a_line(tmp_path, hurried, caplog):
    rig = Rig(tmp_path)
    rig.keeper.start()
    (tmp_path / "xds").rmdir()
    rig.fill()
    run_for(rig.keeper, lambda: True)
    assert "cannot be saved in STATE_DIR" in caplog.text


def test_a_disk_stops_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FatalError):
        Rig(tmp_path / "file").keeper.start()
