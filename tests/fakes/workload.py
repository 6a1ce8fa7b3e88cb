"""One agent's identity without the rest of it: its manager, its secret server, the files that it reads and writes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.config import IdentityConfig, PeerConfig, SdsConfig
from agent.events import Recorder
from agent.identity.manager import IdentityManager
from agent.latest import Latest
from agent.model import Readiness, Secret
from agent.sds.outputs import Outputs
from agent.sds.server import SdsServer
from tests.fakes.ca import SERVER_NAME, FakeCa


def spiffe(name: str) -> str:
    return f"spiffe://cluster.local/ns/demo/sa/{name}"


class Workload:
    """`async with workload.running()`: certificates come from `ca`, and go to whoever asks at `socket`.

    `output` is where the certificates go as files; `usual` seconds bound the first call to the CA; `config` are
    further fields of IdentityConfig.
    """

    def __init__(
        self, folder: Path, ca: FakeCa, name: str = "app", *, output: str = "", usual: float = 20.0, **config: Any
    ) -> None:
        self.socket = str(folder / f"{name}.sock")
        for file, content in (("root.pem", ca.root.pem), ("token", b"token-1\n")):
            (folder / file).write_bytes(content)
        peer = PeerConfig((ca.address,), False, str(folder / "root.pem"), SERVER_NAME, token_file=str(folder / "token"))
        self.secret: Latest[Secret | None] = Latest(None)
        self.readiness = Latest(Readiness(True))
        self.recorder = Recorder(4096)
        identity = IdentityConfig(spiffe(name), peer, **{"ecdsa": True, **config})
        self.manager = IdentityManager(identity, self.secret, self.readiness, self.recorder, usual=usual)
        sds = SdsConfig(socket_path=self.socket, output_dir=output)
        self.server = SdsServer(sds, self.secret, self.recorder)
        self.parts = [self.manager, self.server, *([Outputs(sds, self.secret, self.recorder)] if output else [])]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Workload"]:
        for part in self.parts:
            await part.start()
        tasks = [asyncio.ensure_future(part.run()) for part in self.parts]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            assert task.cancelled(), task.exception()

    async def next_secret(self, former: Secret | None = None) -> Secret:
        """The certificate in use once it is not `former`; waits at most 20 s."""
        found = await asyncio.wait_for(self.secret.until(lambda s: s is not None and s is not former), 20)
        assert found is not None
        return found

    async def failure(self, count: int = 1) -> str:
        """The sentence of the last failed attempt, once so many in a row have failed; waits at most 20 s."""
        status = await asyncio.wait_for(self.manager.status.until(lambda s: s.failures >= count), 20)
        return status.last_error
