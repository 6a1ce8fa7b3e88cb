"""Certificates that somebody mounts, as news: first served, replaced, expired. Metrics learn their ends here."""

import asyncio
import logging
import time

from agent.events import Recorder
from agent.record import state
from agent.sds.files import Content, FileSecrets
from agent.text import one_line

LONGEST = 30.0  # seconds between two looks at the clock, which may be set
MOST = 64  # names that are remembered; Envoy asks for a few


@state
class _Known:
    version: str
    serial: str
    not_after: float  # epoch seconds; of a bundle of roots: of the first that ends
    pair: bool
    expired: bool = False  # that was told


class Mounted:
    """Hears of every content that `files` loads."""

    def __init__(self, files: FileSecrets, recorder: Recorder) -> None:
        self._files = files
        self._recorder = recorder
        self._known: dict[str, _Known] = {}
        self._news = asyncio.Event()
        files.loaded = self._loaded

    def ends(self) -> dict[str, float]:
        """When what is served under each name expires, epoch seconds."""
        return {one_line(name[:200]): known.not_after for name, known in self._served()}

    async def run(self) -> None:
        """Tell of what expires while it is served, once, until cancelled."""
        while True:
            self._news.clear()
            self._look(time.time())
            left = [known.not_after - time.time() for _, known in self._served() if known.pair and not known.expired]
            try:
                async with asyncio.timeout(max(0.01, min(LONGEST, *left)) if left else None):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _served(self) -> list[tuple[str, _Known]]:
        return [(name, self._known[name]) for name in self._files.names() if name in self._known]

    def _loaded(self, name: str, content: Content) -> None:
        from agent import certinfo  # x509 has just been needed for the content itself

        before = self._known.pop(name, None)
        if before is not None and before.version == content.version:
            self._known[name] = before
            return
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        found = [one for one in certinfo.describe(content.chain or content.roots) if "error" not in one]
        if not found:
            return
        first = found[0] if content.chain else min(found, key=lambda one: float(one["not_after"]))
        known = _Known(content.version, first["serial"], first["not_after"], bool(content.chain))
        self._known[name] = known
        self._news.set()
        if known.pair:
            self._tell(name, known, before is not None)

    def _tell(self, name: str, known: _Known, again: bool) -> None:
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(known.not_after))
        what = "was replaced" if again else "is served"
        message = f"the mounted certificate {one_line(name[:200])} {what}: serial {known.serial}, valid until {end}"
        kind = "mounted-replaced" if again else "mounted"
        self._recorder.record("sds", kind, message, serial=known.serial, not_after=known.not_after)

    def _look(self, now: float) -> None:
        for name, known in self._served():
            if known.pair and not known.expired and now >= known.not_after:
                known.expired = True
                message = (
                    f"the mounted certificate {one_line(name[:200])} has expired and is still served, for want of a "
                    "newer one; whoever mounts it must replace it"
                )
                end = known.not_after
                self._recorder.record(
                    "sds", "mounted-expired", message, level=logging.ERROR, serial=known.serial, not_after=end
                )
