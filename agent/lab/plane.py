"""`remora-agent lab plane`: the control plane as one process; follows its mesh file and ends on SIGTERM."""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

from agent import logs
from agent.errors import ConfigError
from agent.lab import mesh, resources
from agent.lab.ads import AdsServer
from agent.lab.serving import issued_in, read, tls, until_signal
from agent.latest import Latest

log = logs.scope("plane")
POLL = 0.1  # seconds between two looks at the mesh file


@dataclass(frozen=True, slots=True)
class PlaneOptions:
    """What the command line said. PEM files; TLS, so `cert` and `key`, unless `plaintext` or a unix socket."""

    mesh: Path
    listen: str
    cert: Path | None = None
    key: Path | None = None
    root: Path | None = None
    tokens: Path | None = None
    plaintext: bool = False


class MeshFile:
    """The mesh file and the last good mesh read from it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = b""
        self.world = Latest(mesh.Mesh())

    def load(self) -> None:
        """The first read. Raises ConfigError."""
        self._seen = read(self._path, "the mesh file")
        self.world.set(self._parse(self._seen))

    def reload(self) -> None:
        """Take over what the file says now; a bad file leaves the world as it was and is complained about once."""
        try:
            text = read(self._path, "the mesh file")
            if text == self._seen:
                return
            self._seen = text
            parsed = self._parse(text)
        except ConfigError as error:
            log.error(f"{error}; still serving the old mesh")
            return
        self.world.set(parsed)
        log.info("mesh loaded", extra={"labels": describe(parsed)})

    async def run(self) -> None:
        """Follow the file. A change counts once two looks agree, so that a half-written file is not served."""
        settled, missing = self._seen, False
        while True:
            await asyncio.sleep(POLL)
            try:
                text = self._path.read_bytes()
            except OSError as error:
                if not missing:
                    log.error(f"cannot read the mesh file {self._path}: {error.strerror}; still serving the old mesh")
                missing = True
                continue
            missing = False
            if text != self._seen and text == settled:
                self.reload()
            settled = text

    def _parse(self, text: bytes) -> mesh.Mesh:
        return mesh.parse_bytes(text, f"mesh file {self._path}")


def describe(world: mesh.Mesh) -> dict[str, object]:
    return {"services": len(world.services), "workloads": len(world.workloads), "mtls": world.mtls.value}


async def serve(options: PlaneOptions) -> None:
    """The whole process. Raises ConfigError for unusable files and FatalError for a taken address."""
    file = MeshFile(options.mesh)
    file.load()
    # The first use of every message class costs half a second; nobody should wait for it on a stream.
    resources.snapshot(file.world.value, resources.Node("sidecar", "192.0.2.1", "none", "none"))
    server = AdsServer(
        options.listen, file.world, _context(options), issued_in(options.tokens) if options.tokens is not None else None
    )
    await server.start()
    log.info("serving", extra={"labels": {"address": options.listen, **describe(file.world.value)}})
    await until_signal(server.run, file.run, on_hangup=file.reload)


def _context(options: PlaneOptions) -> ssl.SSLContext | None:
    if options.plaintext or options.listen.startswith("unix:"):
        return None
    if options.cert is None or options.key is None:
        raise ConfigError("--cert and --key are required unless --plaintext is given or --listen is unix:PATH")
    from agent.lab import authority

    key, chain = read(options.key, "the server key"), read(options.cert, "the server certificate")
    authority.check_pair(key, chain, read(options.root, "the root certificate") if options.root else None)
    return tls(options.cert, options.key)
