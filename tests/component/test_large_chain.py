"""A chain of many megabytes on its way from the CA to Envoy."""

import asyncio
import time
from pathlib import Path

from agent.identity import certs
from tests.fakes.answers import SPIFFE, distinct
from tests.fakes.ca import Call, FakeCa
from tests.fakes.sds_client import SdsClient
from tests.fakes.workload import Workload

LIMIT = 4 << 20  # of gRPC libraries, unless they are told otherwise


async def longest_turn(work: "asyncio.Future[object]") -> float:
    """Seconds of its processor that the event loop's thread took for its longest turn until `work` was done."""
    longest, before = 0.0, time.thread_time()
    while not work.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, before = max(longest, now - before), now
    return longest


def test_a_chain_beyond_grpcs_usual_limit_reaches_the_open_stream_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    many = distinct(3 * LIMIT // 2)

    def large(ca: FakeCa, call: Call) -> list[str]:
        leaf, root = FakeCa.sign(ca, call)
        return [leaf, many, root]

    async def main() -> None:
        turns = []
        with FakeCa() as ca:
            workload = Workload(tmp_path, ca)
            async with workload.running(), SdsClient(workload.socket) as client:
                await client.ask("default")
                await client.follow("default")
                ca.answer = large
                for _ in range(3):
                    workload.manager.renew_now()
                    pushed = asyncio.ensure_future(client.follow("default"))
                    turns.append(await longest_turn(pushed))
                    sent, secret = (await pushed).tls_certificate, workload.secret.value
                    assert secret is not None
                    assert sent.certificate_chain.inline_bytes == secret.chain
                    assert sent.private_key.inline_bytes == secret.key
                    assert many.encode() in secret.chain
                    assert len(secret.chain) > LIMIT
        began = time.thread_time()
        certs.verify([secret.chain.decode(), secret.roots.decode()], secret.key, SPIFFE, time.time())
        alone = time.thread_time() - began
        # The best of three; the processor's time, as a busy machine makes any turn long.
        assert min(turns) < alone / 2, "the loop stood still while the chain was looked at"

    asyncio.run(main())
