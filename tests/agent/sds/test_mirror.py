import asyncio
from pathlib import Path

from agent.config import SdsConfig
from agent.events import Recorder
from agent.sds.mirror import Mirror
from tests.fakes.ca import Root

ROOT = Root()


def config(tmp: Path) -> SdsConfig:
    names = {"cert_file": "cert-chain.pem", "key_file": "key.pem", "root_file": "root-cert.pem"}
    return SdsConfig(debounce=0.01, output_dir="/out", **{k: str(tmp / v) for k, v in names.items()})  # type: ignore[arg-type]


def test_whole_content_is_copied_at_the_start_and_when_it_changes(tmp_path: Path) -> None:
    async def main() -> None:
        copies: list[dict[str, bytes]] = []
        mirror = Mirror(config(tmp_path), copies.append, Recorder())
        (tmp_path / "root-cert.pem").write_bytes(ROOT.pem)
        await mirror.start()
        assert copies == [{"root-cert.pem": ROOT.pem}]
        task = asyncio.ensure_future(mirror.run())
        await asyncio.sleep(0.05)
        key, cert = ROOT.workload("spiffe://x/y")
        (tmp_path / "cert-chain.pem").write_bytes(cert)
        (tmp_path / "key.pem").write_bytes(key)
        async with asyncio.timeout(10):
            while len(copies) < 2:
                await asyncio.sleep(0.005)
        assert copies[1] == {"root-cert.pem": ROOT.pem, "key.pem": key, "cert-chain.pem": cert}
        (tmp_path / "cert-chain.pem").write_bytes(cert[:50])
        await asyncio.sleep(0.1)
        assert len(copies) == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_copy_that_fails_is_an_event(tmp_path: Path) -> None:
    def refuse(_: dict[str, bytes]) -> None:
        raise OSError(30, "Read-only file system")

    recorder = Recorder()
    asyncio.run(Mirror(config(tmp_path), refuse, recorder).start())
    (event,) = recorder.events()
    assert event.message == "cannot copy mounted certificates to /out: Read-only file system"
