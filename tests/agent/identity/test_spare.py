import asyncio
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

from agent.config import IdentityConfig, PeerConfig
from agent.identity.spare import KeySupply

RSA = IdentityConfig("spiffe://td/ns/n/sa/s", PeerConfig(("ca:1",), False, "", "ca"))


async def until_ready(supply: KeySupply) -> None:
    async with asyncio.timeout(20):
        while not supply.ready:
            await asyncio.sleep(0.002)


def test_the_first_key_is_the_given_one_and_each_is_handed_out_once() -> None:
    async def main() -> None:
        first: Future[bytes] = Future()
        first.set_result(b"first")
        supply = KeySupply(RSA, first)
        assert supply.ready
        assert await supply.take() == b"first"
        assert not supply.ready
        assert (await supply.take()).startswith(b"-----BEGIN RSA")

    asyncio.run(main())


def test_a_spare_is_made_in_quiet_moments() -> None:
    async def main() -> None:
        supply = KeySupply(RSA)
        runner = asyncio.ensure_future(supply.run())
        await asyncio.sleep(0.05)
        assert not supply.ready, "nothing was taken yet: the first key is somebody else's business"
        keys = [await supply.take()]
        for _ in range(2):
            supply.plan(0.01)
            await until_ready(supply)
            keys.append(await supply.take())
        assert len(set(keys)) == 3
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    asyncio.run(main())


def test_the_last_plan_counts() -> None:
    async def main() -> None:
        supply = KeySupply(RSA)
        runner = asyncio.ensure_future(supply.run())
        supply.plan(0.0)
        await until_ready(supply)
        first = await supply.take()
        supply.plan(3600.0)  # in ten minutes
        await asyncio.sleep(0.05)
        assert not supply.ready
        supply.plan(0.01)  # the clock was set
        await until_ready(supply)
        supply.plan(0.01)
        await asyncio.sleep(0.05)
        assert await supply.take() != first, "one that is there is kept"
        assert not supply.ready
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    asyncio.run(main())


def test_ecdsa_keys_are_made_when_needed() -> None:
    async def main() -> None:
        supply = KeySupply(replace(RSA, ecdsa=True))
        runner = asyncio.ensure_future(supply.run())
        assert (await supply.take()).startswith(b"-----BEGIN EC")
        supply.plan(0.0)
        await asyncio.sleep(0.05)
        assert not supply.ready
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    asyncio.run(main())


def test_a_failed_spare_is_the_takers_error_and_is_not_kept() -> None:
    async def main() -> None:
        supply = KeySupply(replace(RSA, rsa_key_size=256))
        with pytest.raises(ValueError, match="1024"):
            await supply.take()
        assert not supply.ready

    asyncio.run(main())


def test_the_loop_runs_on_while_a_key_is_made() -> None:
    async def main() -> None:
        here, where = threading.get_ident(), []
        supply = KeySupply(RSA)
        key = asyncio.ensure_future(supply.take())
        while not key.done():
            where.append(threading.get_ident())
            await asyncio.sleep(0)
        assert set(where) == {here}
        assert len(where) > 1

    asyncio.run(main())
