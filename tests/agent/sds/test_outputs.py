import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.backoff import Backoff
from agent.config import SdsConfig
from agent.events import Recorder
from agent.latest import Latest
from agent.model import Secret
from agent.sds import outputs
from agent.sds.outputs import Outputs
from tests.fakes.ca import Root
from tests.fakes.waiting import eventually

ROOT = Root()
SECRET = Secret(b"chain", b"key", b"roots", "spiffe://x", 0.0, 1.0, 0.0)


class World:
    def __init__(self, tmp: Path, output: Path | None = None) -> None:
        self.mounted, self.out = tmp / "mounted", output or tmp / "made" / "out"
        self.mounted.mkdir()
        files = {"cert_file": "cert-chain.pem", "key_file": "key.pem", "root_file": "root-cert.pem"}
        config = SdsConfig(debounce=0.01, **{k: str(self.mounted / v) for k, v in files.items()})  # type: ignore[arg-type]
        self.secret: Latest[Secret | None] = Latest(None)
        self.bundle: Latest[tuple[str, ...]] = Latest(())
        self.recorder = Recorder()
        self.outputs = Outputs(replace(config, output_dir=str(self.out)), self.secret, self.recorder, self.bundle)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.outputs.start()
        task = asyncio.ensure_future(self.outputs.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def written(self) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in self.out.iterdir()} if self.out.exists() else {}

    def kinds(self) -> list[str]:
        return [e.kind for e in self.recorder.events()]


def of(secret: Secret) -> dict[str, bytes]:
    return {"root-cert.pem": secret.roots, "key.pem": secret.key, "cert-chain.pem": secret.chain}


def test_every_certificate_of_the_ca_is_written(tmp_path: Path) -> None:
    async def main() -> None:
        w = World(tmp_path)
        async with w.running():
            assert w.written() == {}
            for secret in (SECRET, replace(SECRET, chain=b"c2", key=b"k2"), replace(SECRET, roots=b"r2")):
                w.secret.set(secret)
                await eventually(lambda s=secret: w.written() == of(s))
        assert w.kinds() == []

    asyncio.run(main())


def test_what_exists_is_written_before_anything_runs(tmp_path: Path) -> None:
    async def main() -> None:
        w = World(tmp_path)
        (w.mounted / "root-cert.pem").write_bytes(ROOT.pem)
        await w.outputs.start()
        assert w.written() == {"root-cert.pem": ROOT.pem}

    asyncio.run(main())


def test_mounted_files_come_before_the_ca_as_they_do_for_envoy(tmp_path: Path) -> None:
    async def main() -> None:
        w = World(tmp_path)
        key, cert = ROOT.workload("spiffe://x/y")
        async with w.running():
            w.secret.set(SECRET)
            await eventually(lambda: w.written() == of(SECRET))
            (w.mounted / "cert-chain.pem").write_bytes(cert)
            (w.mounted / "key.pem").write_bytes(key)
            await eventually(lambda: w.written() == of(replace(SECRET, chain=cert, key=key)))
            # Half a certificate is none; the root after it shows that the agent has looked.
            (w.mounted / "cert-chain.pem").write_bytes(cert[:50])
            (w.mounted / "root-cert.pem").write_bytes(ROOT.pem)
            await eventually(lambda: w.written() == of(replace(SECRET, chain=cert, key=key, roots=ROOT.pem)))

    asyncio.run(main())


def test_the_control_planes_bundle_joins_the_mounted_roots(tmp_path: Path) -> None:
    async def main() -> None:
        w = World(tmp_path)
        (w.mounted / "root-cert.pem").write_bytes(ROOT.pem)
        other = Root("other").pem
        async with w.running():
            w.bundle.set((other.decode(),))
            joined = b"\n".join(sorted((ROOT.pem.strip(), other.strip())))
            await eventually(lambda: w.written() == {"root-cert.pem": joined})

    asyncio.run(main())


def test_what_cannot_be_written_is_told_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "RETRY", Backoff(initial=0.01, cap=0.02, factor=2.0, jitter=0.2))

    async def main() -> None:
        in_the_way = tmp_path / "file"
        in_the_way.write_text("")
        w = World(tmp_path, in_the_way / "out")
        async with w.running():
            w.secret.set(SECRET)
            await eventually(lambda: w.kinds() == ["output-failed"])
            (event,) = w.recorder.events()
            assert event.message == f"cannot write certificates to {w.out}: Not a directory; it is tried again"
            in_the_way.unlink()
            await eventually(lambda: w.kinds() == ["output-failed", "output-written"])
            assert w.written() == of(SECRET)

    asyncio.run(main())
