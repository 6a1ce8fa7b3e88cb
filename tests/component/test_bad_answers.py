"""A CA on its bad days and the secret server together: whatever it answers, no stream notices."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.fakes.answers import BAD, SLOW, WORSE, broken
from tests.fakes.ca import Call, FakeCa
from tests.fakes.sds_client import SdsClient
from tests.fakes.workload import Workload


@pytest.mark.parametrize("name", [*BAD, *WORSE])
def test_bad_answers_reach_no_stream(tmp_path: Path, name: str) -> None:
    honest: list[bytes] = []

    def healed(ca: FakeCa, call: Call) -> list[str]:
        chain = FakeCa.sign(ca, call)
        honest.append("".join(chain).encode())
        return chain

    async def late(workload: Workload) -> bytes:
        async with SdsClient(workload.socket) as client:
            return (await client.get("default"))["default"].tls_certificate.certificate_chain.inline_bytes

    async def main() -> None:
        with FakeCa() as ca:
            patience = SLOW / 2 if name in ("slow", "hang") else 20.0
            workload = Workload(tmp_path, ca, usual=patience)
            async with workload.running(), SdsClient(workload.socket) as client:
                await client.ask("default")
                first = (await client.follow("default")).tls_certificate
                current, version = workload.secret.value, workload.secret.version
                with broken(ca, name):
                    workload.manager.renew_now()
                    assert await late(workload) == first.certificate_chain.inline_bytes
                    sentence = await workload.failure()
                    assert await late(workload) == first.certificate_chain.inline_bytes
                    assert (workload.secret.value, workload.secret.version) == (current, version)
                    assert workload.readiness.version == 0
                ca.answer = healed
                workload.manager.renew_now()
                # Had anything been sent meanwhile, it would come first.
                pushed = (await client.follow("default")).tls_certificate
                assert pushed.certificate_chain.inline_bytes in honest
                assert pushed.private_key.inline_bytes != first.private_key.inline_bytes
                assert (await workload.next_secret(current)).chain in honest
            assert re.search({**BAD, **WORSE}[name][1], sentence)
            assert sentence.isprintable()
            assert "-----" not in sentence
            assert "ParseError" not in sentence
            assert len(sentence) < 500

    asyncio.run(main())
