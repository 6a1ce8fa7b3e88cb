"""OUTPUT_CERTS: what Envoy is served as `default` and `ROOTCA`, as files for programs that are not Envoy."""

import asyncio
import logging
import random

from agent.backoff import Backoff
from agent.config import SdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.model import Secret
from agent.sds import outputfiles
from agent.sds.follow import Follower
from agent.sds.resources import ROOT
from agent.sds.store import Store

PAIR = "default"
RETRY = Backoff(initial=1.0, cap=60.0, factor=2.0, jitter=0.2)


class Outputs:
    """Follows `secret`, the mounted files and the control plane's trust `bundle`.

    What cannot be written is an event, and tried again until it can.
    """

    def __init__(
        self,
        config: SdsConfig,
        secret: Latest[Secret | None],
        recorder: Recorder,
        bundle: Latest[tuple[str, ...]] | None = None,
    ) -> None:
        self._config = config
        self._secret = secret
        self._recorder = recorder
        self._bundle: Latest[tuple[str, ...]] = Latest(()) if bundle is None else bundle
        self._store = Store(config, secret, self._bundle)
        self._wake = asyncio.Event()
        self._follower = Follower(self._store, config.debounce, self._wake.set)
        self._problem = ""

    async def start(self) -> None:
        """Write what is there already. Raises nothing: Envoy needs none of these files."""
        for name in (PAIR, ROOT):
            self._store.subscribe(name)
        try:
            outputfiles.mend(self._config.output_dir)
        except OSError as e:
            self._failed(e)
        await self._write()

    async def run(self) -> None:
        """Until cancelled."""
        with self._secret.listening(self._wake.set), self._bundle.listening(self._wake.set):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follower.run(), name="outputs-files")
                await self._keep()

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            failures = 0 if await self._write() else failures + 1
            try:
                async with asyncio.timeout(RETRY.delay(failures - 1, random.random()) if failures else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _write(self) -> bool:
        """Make the files what they should be; False if that failed."""
        contents: dict[str, bytes] = {}
        if pair := self._store.source(PAIR):
            contents |= {outputfiles.KEY: pair.key, outputfiles.CHAIN: pair.chain}
        if trust := self._store.source(ROOT):
            contents[outputfiles.ROOT] = trust.roots
        if not contents:
            return True
        directory, mode = self._config.output_dir, self._config.output_mode
        try:
            await asyncio.to_thread(outputfiles.replace, directory, contents, mode)
        except OSError as e:
            self._failed(e)
            return False
        if self._problem:
            self._problem = ""
            self._recorder.record("sds", "output-written", f"the certificates in {directory} are up to date again")
        return True

    def _failed(self, e: OSError) -> None:
        message = f"cannot write certificates to {self._config.output_dir}: {e.strerror or e}; it is tried again"
        if message != self._problem:
            self._problem = message
            self._recorder.record("sds", "output-failed", message, level=logging.ERROR)
