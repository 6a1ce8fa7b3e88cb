"""Keeps the last-known-good configuration: the cache, its age, its files, and what people are told about it."""

import asyncio
import logging
import time
from collections.abc import Callable

from agent import logs
from agent.config import XdsCacheConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.model import XdsStatus
from agent.record import record, replace
from agent.xds.cache import Cache, Kept
from agent.xds.state import StateDir
from agent.xds.tracker import Tracker
from agent.xds.wire import NAME_TABLE, Flavour

log = logs.scope("xdsproxy")

SETTLE = 0.5  # seconds after a change before it is written: pushes of several types come together
PAUSE = 1.0  # seconds between two writes, at least
BEAT = 30.0  # seconds between two notes of when the control plane was last heard


@record
class CacheReport:
    """The cache in numbers. `state`: live, stale (being served), empty, expired or off (`reason` says why)."""

    state: str
    reason: str
    bytes: int
    resources: int
    age: float  # seconds since the control plane was last heard, 0 while it is there


class Keeper:
    """One per proxy. Streams ask it for a `tracker`, and tell it what they hear and when they fall back."""

    def __init__(
        self,
        config: XdsCacheConfig,
        status: Latest[XdsStatus],
        recorder: Recorder,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._status = status
        self._recorder = recorder
        self._clock = clock
        self._state = StateDir(config.state_dir, config.owner) if config.enabled and config.state_dir else None
        self.cache = Cache(config.max_bytes if config.enabled else 0)
        if not config.enabled:
            self.cache.off = "XDS_CACHE is off"
        self._said_off = self.cache.off
        self._names = Kept(Flavour.DELTA)  # the agent's own name table; kept only for the files
        self._written: dict[str, int] = {}  # type URL to the revision in its file
        self._changed = asyncio.Event()
        self._heard = 0.0
        self._live: Tracker | None = None  # the stream on which the control plane talks
        self._live_since = 0.0

    def start(self) -> bytes | None:
        """Load what an earlier agent left; returns its name table, if any. Raises FatalError."""
        if self._state is None:
            return None
        self._state.prepare(self._config.allow_disk)
        found, self._heard = self._state.load()
        if not self._fresh():
            if found:
                log.warning("the saved configuration is older than XDS_CACHE_MAX_AGE and is not used")
            return None
        names = found.pop(NAME_TABLE, None)
        for type_url, kept in found.items():
            self.cache.restore(type_url, kept)
            self._written[type_url] = kept.revision
        self._notice()
        if found:
            self._recorder.record(
                "xds", "restored", "Configuration of an earlier run is at hand.", age=round(self.age), types=len(found)
            )
        return names.entries.get("") if names else None

    # ------------------------------------------------------------------------------------------- for the streams

    @property
    def after(self) -> float:
        """Seconds that the control plane may take for its first response."""
        return self._config.after

    def usable(self, flavour: Flavour) -> bool:
        """Whether there is something that may be served now."""
        return self._fresh() and any(kept.flavour is flavour for kept in self.cache.types().values())

    @property
    def age(self) -> float:
        """Seconds since the control plane was last heard; a clock that went back makes it 0."""
        return 0.0 if self._live is not None else max(0.0, self._clock() - self._heard)

    def tracker(self, flavour: Flavour) -> Tracker:
        return Tracker(self.cache, flavour, self._config.max_bytes)

    def live(self, tracker: Tracker) -> None:
        """The control plane talks to Envoy on this stream."""
        self._live, self._live_since = tracker, self._clock()
        status = self._status.value
        if status.stale:
            away = round(self._clock() - status.cached_at, 1)
            self._status.set(replace(status, stale=False))
            self._recorder.record(
                "xds", "live", f"Envoy has the control plane's own configuration again, after {away:g} s.", away=away
            )
        self._changed.set()

    def ended(self, tracker: Tracker) -> None:
        """A stream is over, live or not."""
        tracker.close()
        if self._live is tracker:
            self._heard = self._clock()
            self._live = None
            self._changed.set()

    def noticed(self) -> None:
        """Envoy may have accepted something."""
        if not self._said_off:
            self._notice()
            self._changed.set()

    def took_names(self, payload: bytes) -> None:
        """The name table was accepted by the DNS server."""
        if self._state is not None:
            self._names.put("", payload)
            self._names.revision += 1
            self._changed.set()

    def stale(self, cause: str) -> None:
        """Envoy is going to be served from the cache; said once per outage."""
        if self._status.value.stale:
            return
        self._status.set(replace(self._status.value, stale=True, cached_at=self._heard))
        message = f"Envoy is served the configuration that it accepted last, {self.age:.0f} s old: {cause}"
        self._recorder.record("xds", "stale", message, level=logging.WARNING, age=round(self.age))

    def report(self) -> CacheReport:
        kept = self.cache.types().values()
        state = "off" if self.cache.off else "stale" if self._status.value.stale else "empty"
        if state == "empty" and kept:
            state = "live" if self._fresh() else "expired"
        age = self.age if self._heard else 0.0
        return CacheReport(state, self.cache.off, self.cache.size, sum(len(k.entries) for k in kept), age)

    def _fresh(self) -> bool:
        return self.age < self._config.max_age

    def _notice(self) -> None:
        """Say so when the cache has switched itself off."""
        if self.cache.off != self._said_off:
            self._said_off = self.cache.off
            message = f"The last configuration is no longer kept for an outage: {self.cache.off}."
            self._recorder.record("xds", "cache-off", message, level=logging.WARNING)

    # ------------------------------------------------------------------------------------------------- the files

    async def run(self) -> None:
        """Write changes, tidy up; until cancelled."""
        writing: asyncio.Future[None] | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(BEAT):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                await asyncio.sleep(SETTLE)
                self._changed.clear()
                if self._live is not None and self._clock() - self._live_since > BEAT:
                    self._live.prune()
                if self._state is not None:
                    writing = asyncio.get_running_loop().run_in_executor(None, self._write, self._due())
                    await asyncio.shield(writing)
                    await asyncio.sleep(PAUSE)
        finally:
            if self._state is not None:
                if writing is not None:  # a thread cannot be cancelled
                    await asyncio.wait({writing})
                self._write(self._due())

    def _due(self) -> list[tuple[str, Kept | None]]:
        """Copies of the types that differ from their files; None for those that are gone. Slices are shared."""
        now = {type_url: kept for type_url, kept in self.cache.types().items() if not kept.missing}
        if self._names.entries:
            now[NAME_TABLE] = self._names
        due: list[tuple[str, Kept | None]] = [(url, None) for url in self._written if url not in now]
        for url, kept in now.items():
            if self._written.get(url) != kept.revision:
                due.append((url, replace(kept, entries=dict(kept.entries))))
        return due

    def _write(self, due: list[tuple[str, Kept | None]]) -> None:
        """On a thread. What cannot be written is tried again with the next change."""
        if self._state is None:
            return
        try:
            for type_url, kept in due:
                if kept is None:
                    self._state.remove(type_url)
                    self._written.pop(type_url, None)
                else:
                    self._state.save(type_url, kept)
                    self._written[type_url] = kept.revision
            heard = self._clock() if self._live is not None else self._heard
            if heard:
                self._state.heard(heard)
        except OSError as e:
            log.warning("the configuration cannot be saved in STATE_DIR: %s", e.strerror)
