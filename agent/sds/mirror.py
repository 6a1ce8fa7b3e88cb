"""Copies of mounted certificates, for programs that look for them in OUTPUT_CERTS."""

import logging
from collections.abc import Callable

from agent.config import SdsConfig
from agent.events import Recorder
from agent.sds.files import FileSecrets
from agent.sds.follow import Follower

PAIR, TRUST = "default", "ROOTCA"
Write = Callable[[dict[str, bytes]], object]  # name of an output file → content; OSError if it cannot


class Mirror:
    """Follows the mounted pair and root and hands each new content to `write`, never half-written."""

    def __init__(self, config: SdsConfig, write: Write, recorder: Recorder) -> None:
        self._config = config
        self._write = write
        self._recorder = recorder
        self.files = FileSecrets()
        self._follower = Follower(self, config.debounce, self._copy)

    def paths(self) -> list[str]:
        return self.files.paths()

    def refresh(self, thorough: bool = False) -> bool:
        return self.files.refresh(thorough)

    async def start(self) -> None:
        """Copy what is there."""
        self.files.track(PAIR, (self._config.cert_file, self._config.key_file), quiet=True)
        self.files.track(TRUST, (self._config.root_file,), quiet=True)
        self._copy()

    async def run(self) -> None:
        """Until cancelled."""
        await self._follower.run()

    def _copy(self) -> None:
        contents: dict[str, bytes] = {}
        if pair := self.files.get(PAIR):
            contents |= {"key.pem": pair.key, "cert-chain.pem": pair.chain}
        if trust := self.files.get(TRUST):
            contents["root-cert.pem"] = trust.roots
        try:
            self._write(contents)
        except OSError as e:
            message = f"cannot copy mounted certificates to {self._config.output_dir}: {e.strerror or e}"
            self._recorder.record("sds", "output-failed", message, level=logging.ERROR)
