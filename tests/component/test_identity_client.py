"""What the CA is shown, how often it is asked, and what is made of its refusals: the manager against real TLS."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.config import IdentityConfig, MachineTokenConfig, PeerConfig
from agent.errors import AttemptError
from agent.events import Recorder
from agent.identity import certs, keys
from agent.identity.client import WAITS, CaClient, Denied, Late
from agent.identity.credentials import Kind
from agent.identity.fetcher import MachineToken
from agent.identity.manager import IdentityManager
from agent.latest import Latest
from agent.model import Readiness, Secret
from tests.fakes.ca import SERVER_NAME, Call, Deny, FakeCa, Root
from tests.fakes.front import TlsFront, write_pair
from tests.fakes.metadata import Metadata, jwt
from tests.fakes.waiting import eventually

SPIFFE = "spiffe://cluster.local/ns/demo/sa/app"
ROOT = Root()
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def make(tmp: Path, *addresses: str, **more: Any) -> IdentityConfig:
    (tmp / "root.pem").write_bytes(ROOT.pem)
    (tmp / "token").write_text("token-1")
    peer = PeerConfig(addresses, False, str(tmp / "root.pem"), SERVER_NAME, token_file=str(tmp / "token"), **more)
    return IdentityConfig(SPIFFE, peer, ecdsa=True)


def csr(config: IdentityConfig) -> bytes:
    return certs.request(keys.generate(config), config.spiffe_id)


def sign(
    config: IdentityConfig, kind: Kind = Kind.TOKEN, own: tuple[bytes, bytes] | None = None, uniform: float = 0.5
) -> tuple[CaClient, Any]:
    client = CaClient(config, lambda: uniform)
    return client, client.sign(csr(config), kind, own, 10.0)


@dataclass
class Managed:
    manager: IdentityManager
    secret: Latest[Secret | None]

    async def issued(self, after: Secret | None = None) -> Secret:
        async with asyncio.timeout(20):
            found = await self.secret.until(lambda s: s is not None and s is not after)
        assert found is not None
        return found

    async def failure(self) -> str:
        async with asyncio.timeout(20):
            return (await self.manager.status.until(lambda s: s.failures > 0)).last_error


@asynccontextmanager
async def managing(config: IdentityConfig, **more: Any) -> AsyncIterator[Managed]:
    secret: Latest[Secret | None] = Latest(None)
    manager = IdentityManager(config, secret, Latest(Readiness(True)), Recorder(), **more)
    await manager.start()
    task = asyncio.ensure_future(manager.run())
    try:
        yield Managed(manager, secret)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("code", "calls", "kind"),
    [
        ("UNAVAILABLE", 5, AttemptError),
        ("INTERNAL", 5, AttemptError),
        ("ABORTED", 5, AttemptError),
        ("RESOURCE_EXHAUSTED", 5, AttemptError),
        ("NOT_FOUND", 1, AttemptError),
        ("INVALID_ARGUMENT", 1, AttemptError),
        ("DEADLINE_EXCEEDED", 1, AttemptError),
        ("CANCELLED", 1, AttemptError),
        ("UNAUTHENTICATED", 1, Denied),
        ("PERMISSION_DENIED", 1, Denied),
    ],
)
def test_how_often_a_refusing_ca_is_asked(tmp_path: Path, code: str, calls: int, kind: type[AttemptError]) -> None:
    async def main() -> None:
        with FakeCa(ROOT) as ca:
            ca.deny(grpc.StatusCode[code])
            client, answer = sign(make(tmp_path, ca.address), uniform=0.0)
            began = time.monotonic()
            with pytest.raises(kind, match="denied by the test") as e:
                await answer
            assert type(e.value) is kind
            assert e.value.reason == code.lower()
            assert [c.metadata.get("x-retry-attempty") for c in ca.calls] == [None, "1", "2", "3", "4"][:calls]
            assert client.retries == calls - 1
            assert time.monotonic() - began >= sum(WAITS.delay(n, 0.0) for n in range(calls - 1))

    asyncio.run(main())


def test_the_waits_are_those_of_istio() -> None:
    assert [WAITS.delay(n, 0.5) for n in range(4)] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert [WAITS.delay(n, 0.0) for n in range(4)] == pytest.approx([0.09, 0.18, 0.36, 0.72])


def test_a_ca_that_hangs_gives_way_to_the_next_address(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT) as slow, FakeCa(ROOT) as good:
            slow.hang()
            async with managing(make(tmp_path, slow.address, good.address), usual=0.3) as w:
                await w.issued()
                assert w.manager.status.value.failed_by_reason == (("deadline_exceeded", 1),)
            assert (len(slow.calls), len(good.calls)) == (1, 1)

    asyncio.run(main())


def test_a_ca_that_is_slow_gets_more_time_until_it_succeeds(tmp_path: Path) -> None:
    async def main() -> None:
        def slow(ca: FakeCa, call: Call) -> list[str]:
            time.sleep(0.5)
            return FakeCa.sign(ca, call)

        with FakeCa(ROOT) as ca:
            ca.answer = slow
            async with managing(make(tmp_path, ca.address), usual=0.2) as w:
                assert "did not answer within 0.2 s" in await w.failure()
                await w.issued()
                assert dict(w.manager.status.value.failed_by_reason)["deadline_exceeded"] <= 2

    asyncio.run(main())


def test_what_the_server_says_of_its_own_deadline_is_not_ours(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT) as ca:
            ca.deny(grpc.StatusCode.DEADLINE_EXCEEDED)
            with pytest.raises(AttemptError, match="failed: deadline_exceeded: denied by the test") as e:
                await sign(make(tmp_path, ca.address))[1]
            assert not isinstance(e.value, Late)

    asyncio.run(main())


def test_the_token_is_read_for_every_call_of_an_attempt(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT) as ca:

            def answer(ca: FakeCa, call: Call) -> list[str]:
                (tmp_path / "token").write_text(f"token-{len(ca.calls) + 1}")
                if len(ca.calls) < 3:
                    raise Deny(grpc.StatusCode.UNAVAILABLE)
                return FakeCa.sign(ca, call)

            ca.answer = answer
            await sign(make(tmp_path, ca.address))[1]
            sent = [c.metadata["authorization"] for c in ca.calls]
            assert sent == ["Bearer token-1", "Bearer token-2", "Bearer token-3"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("later", "reason"),
    [("expired", "token_expired"), ("", "token"), (None, "token")],
    ids=["expired", "empty", "gone"],
)
def test_a_token_that_ends_between_two_calls_is_not_sent(tmp_path: Path, later: str | None, reason: str) -> None:
    async def main() -> None:
        with FakeCa(ROOT) as ca:

            def answer(_: FakeCa, __: Call) -> list[str]:
                if later is None:
                    (tmp_path / "token").unlink()
                else:
                    (tmp_path / "token").write_text(later and jwt(-60))
                raise Deny(grpc.StatusCode.UNAVAILABLE)

            ca.answer = answer
            with pytest.raises(AttemptError, match="token") as e:
                await sign(make(tmp_path, ca.address))[1]
            assert e.value.reason == reason
            assert len(ca.calls) == 1

    asyncio.run(main())


def test_the_token_of_a_machine(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT, ttl=2.0) as ca, Metadata() as metadata:
            config = make(tmp_path, ca.address)
            (tmp_path / "token").unlink()
            machine = MachineToken(MachineTokenConfig(metadata.host, "td", config.ca.token_file))
            async with managing(config, machine=machine) as w:
                first = await w.issued()
                assert ca.calls[0].metadata["authorization"] == f"Bearer {metadata.answer[1]}"
                # The metadata server is away when the token is about to end: the certificate in use does.
                (tmp_path / "token").write_text(jwt(-60))
                metadata.answer = (503, "")
                await w.issued(first)
                assert w.manager.status.value.credential == "certificate"

    asyncio.run(main())


def test_without_the_metadata_server_nothing_is_asked_for_and_the_sentence_says_why(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT) as ca:
            config = make(tmp_path, ca.address)
            (tmp_path / "token").unlink()
            machine = MachineToken(MachineTokenConfig("127.0.0.1:1", "td", config.ca.token_file))
            async with managing(config, machine=machine) as w:
                assert "metadata server 127.0.0.1:1" in await w.failure()
            assert ca.calls == []

    asyncio.run(main())


@VERSIONS
def test_a_token_goes_alone_where_the_provisioned_certificate_is_not_believed(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    async def main() -> None:
        with FakeCa(ROOT, tls=False) as ca:
            async with TlsFront(ROOT, ca.address, ROOT, version) as front:
                pair = write_pair(tmp_path, Root("stranger").workload(SPIFFE))
                config = make(tmp_path, front.address, key_file=pair[0], cert_file=pair[1])
                async with managing(config) as w:
                    assert f"check that {pair[1]} was issued by a CA that this one trusts" in await w.failure()
                    await w.issued()
                    assert w.manager.status.value.credential == "token alone"
                    assert w.manager.status.value.renewals == 0
                assert [identity for identity, _ in front.shown] == [""]
            assert [c.metadata.get("authorization") for c in ca.calls] == ["Bearer token-1"]

    asyncio.run(main())


def test_a_key_of_another_certificate_does_not_keep_the_token_back(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        with FakeCa(ROOT) as ca:
            pair = write_pair(tmp_path, (ROOT.workload(SPIFFE)[0], ROOT.workload(SPIFFE)[1]))
            async with managing(make(tmp_path, ca.address, key_file=pair[0], cert_file=pair[1])) as w:
                await w.issued()
                assert w.manager.status.value.credential == "token alone"
                assert w.manager.status.value.failed_by_reason == ()

    asyncio.run(main())


@VERSIONS
def test_the_token_is_used_again_when_the_certificate_in_use_is_believed_no_longer(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    async def main() -> None:
        with FakeCa(ROOT, tls=False, ttl=4.0) as ca:
            async with TlsFront(ROOT, ca.address, ROOT, version) as front:
                async with managing(make(tmp_path, front.address)) as w:
                    first = await w.issued()
                    (tmp_path / "token").unlink()
                    second = await w.issued(first)
                    assert w.manager.status.value.credential == "certificate"
                    # The CA changes whom it believes; somebody has mounted a token again.
                    (tmp_path / "token").write_text("token-2")
                    front.trusts = Root("other")
                    third = await w.issued(second)
                    assert third.not_before < second.not_after
                    assert w.manager.status.value.credential == "token"
                assert [identity for identity, _ in front.shown] == ["", SPIFFE, ""]
            assert [c.metadata.get("authorization") for c in ca.calls] == ["Bearer token-1", None, "Bearer token-2"]

    asyncio.run(main())


def test_a_ca_that_demands_certificates_is_told_of_in_one_sentence(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT, demand_client=True) as ca:
            with pytest.raises(AttemptError, match=r"demands a client certificate|connection was closed"):
                await sign(make(tmp_path, ca.address))[1]
            assert ca.calls == []
            own = ROOT.workload(SPIFFE)
            assert await sign(make(tmp_path, ca.address), Kind.CERTIFICATE, own)[1]
            assert [(c.client, c.metadata.get("authorization")) for c in ca.calls] == [(SPIFFE, None)]

    asyncio.run(main())


def test_in_the_clear_a_token_is_sent_and_no_certificate(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT, tls=False, ttl=2.0) as ca:
            config = make(tmp_path, ca.address)
            plain = IdentityConfig(SPIFFE, PeerConfig((ca.address,), True, "", "", token_file=config.ca.token_file))
            async with managing(plain) as w:
                await w.issued(await w.issued())
                (tmp_path / "token").unlink()
                await eventually(lambda: len(ca.calls) >= 3)
            assert [c.metadata.get("authorization") for c in ca.calls[:3]] == ["Bearer token-1"] * 2 + [None]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("policy", "version"), [("fips-140-2", "TLSv1.2"), ("pqc", "TLSv1.3"), ("fips-140-3", "TLSv1.3"), ("", "TLSv1.3")]
)
def test_the_compliance_policy_decides_about_tls(tmp_path: Path, policy: str, version: str) -> None:
    async def main() -> None:
        with FakeCa(ROOT, tls=False) as ca:
            async with TlsFront(ROOT, ca.address, ROOT) as front:
                await sign(make(tmp_path, front.address, policy=policy))[1]
                assert front.shown == [("", version)]

    asyncio.run(main())


def test_a_server_that_the_policy_forbids_sees_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        with FakeCa(ROOT, tls=False) as ca:
            async with TlsFront(ROOT, ca.address, ROOT, ssl.TLSVersion.TLSv1_2) as front:
                with pytest.raises(AttemptError, match="TLS"):
                    await sign(make(tmp_path, front.address, policy="pqc"))[1]
                assert (front.shown, ca.calls) == ([], [])

    asyncio.run(main())
