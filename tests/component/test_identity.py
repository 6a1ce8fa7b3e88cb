"""The identity manager against a real CA over TLS: first certificate, bad days, renewal."""

import asyncio
import base64
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from agent.config import IdentityConfig, PeerConfig
from agent.events import Recorder
from agent.identity import keys
from agent.identity.manager import IdentityManager
from agent.identity.rotation import Moment
from agent.latest import Latest
from agent.model import Readiness, Secret
from tests.fakes.answers import BAD, SPIFFE, issue, raw_listener
from tests.fakes.ca import SERVER_NAME, Call, Deny, FakeCa, Root
from tests.fakes.waiting import eventually


@dataclass
class World:
    """An agent's files, its CA and its manager."""

    tmp: Path
    ca: FakeCa
    config: IdentityConfig

    def __post_init__(self) -> None:
        self.secret: Latest[Secret | None] = Latest(None)
        self.readiness = Latest(Readiness(True))
        self.recorder = Recorder()
        self.manager = IdentityManager(self.config, self.secret, self.readiness, self.recorder)

    def reconfigure(self, **changes: Any) -> None:
        peer = {k: changes.pop(k) for k in list(changes) if k in PeerConfig.__dataclass_fields__}
        self.config = replace(self.config, ca=replace(self.config.ca, **peer), **changes)
        self.__post_init__()

    async def failure(self, count: int = 1) -> str:
        """The last error once `count` failures in a row were seen."""
        status = await asyncio.wait_for(self.manager.status.until(lambda s: s.failures >= count), 20)
        return status.last_error

    async def issued(self, good: Callable[[Secret], bool] = lambda s: True) -> Secret:
        found = await asyncio.wait_for(self.secret.until(lambda s: s is not None and good(s)), 20)
        assert found is not None
        return found

    def kinds(self) -> list[str]:
        return [e.kind for e in self.recorder.events()]


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with FakeCa() as ca:
        (tmp_path / "root.pem").write_bytes(ca.root.pem)
        (tmp_path / "token").write_text("token-1\n")
        peer = PeerConfig(
            addresses=(ca.address,),
            plaintext=False,
            root_file=str(tmp_path / "root.pem"),
            server_name=SERVER_NAME,
            token_file=str(tmp_path / "token"),
            cluster_id="Kubernetes",
            headers={"X-Tenant": "a=b"},
        )
        yield World(tmp_path, ca, IdentityConfig(spiffe_id=SPIFFE, ca=peer, ecdsa=True, grace_jitter=0.0))


@asynccontextmanager
async def running(world: World) -> AsyncIterator[IdentityManager]:
    await world.manager.start()
    task = asyncio.ensure_future(world.manager.run())
    try:
        yield world.manager
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task.exception()


def matches(secret: Secret) -> bool:
    key = serialization.load_pem_private_key(secret.key, None)
    return key.public_key() == x509.load_pem_x509_certificate(secret.chain).public_key()


def test_first_certificate_and_what_the_ca_was_told(world: World) -> None:
    async def main() -> None:
        world.reconfigure(cert_signer="signer/x", ttl=5400.0)
        async with running(world):
            secret = await world.issued()
            assert matches(secret)
            assert secret.identity == SPIFFE
            assert secret.roots == world.ca.root.pem.strip()
        (call,) = world.ca.calls
        assert call.metadata["authorization"] == "Bearer token-1"
        assert call.metadata["clusterid"] == "Kubernetes"
        assert call.metadata["x-tenant"] == "a=b"
        assert call.request.validity_duration == 5400
        assert dict(call.request.metadata) == {"CertSigner": "signer/x"}
        assert world.kinds() == ["issued"]

    asyncio.run(main())


def test_a_key_made_before_the_loop_is_used(world: World) -> None:
    async def main() -> None:
        future = keys.pregenerate(world.config)
        world.manager = IdentityManager(world.config, world.secret, world.readiness, world.recorder, future)
        async with running(world):
            assert (await world.issued()).key == future.result()

    asyncio.run(main())


def test_rotation_renews_before_expiry_with_fresh_keys(world: World) -> None:
    async def main() -> None:
        world.ca.ttl = 2.0
        async with running(world):
            seen = [await world.issued()]
            while len(seen) < 3:
                previous = seen[-1]
                seen.append(await world.issued(lambda s, p=previous: s is not p))
                assert previous.not_after > time.time(), "renewed only after expiry"
            assert len({s.key for s in seen}) == 3
            assert all(matches(s) for s in seen)
            assert world.readiness.version == 0

    asyncio.run(main())


def test_ca_away_across_rotation_keeps_the_certificate_and_recovers(world: World) -> None:
    async def main() -> None:
        world.ca.ttl = 3.0
        async with running(world):
            first = await world.issued()
            await asyncio.to_thread(world.ca.stop)
            sentence = await world.failure()
            assert world.ca.address in sentence
            assert world.secret.value is first
            expired = await asyncio.wait_for(world.readiness.until(lambda r: not r.ready), 20)
            assert "expired" in expired.reason
            assert world.secret.value is first, "an expired certificate is still not withdrawn"
            await asyncio.to_thread(world.ca.start)
            second = await world.issued(lambda s: s is not first)
            assert second.not_after > time.time()
            assert world.readiness.value.ready
        assert {"issued", "renewal-failed", "expired", "rotated"} <= set(world.kinds())

    asyncio.run(main())


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_a_failed_attempt_with_a_sentence(world: World, name: str) -> None:
    async def main() -> None:
        world.ca.answer, expected = BAD[name]
        async with running(world):
            assert re.search(expected, await world.failure())
            assert world.secret.value is None
            world.ca.heal()
            assert matches(await world.issued())

    asyncio.run(main())


def test_a_certificate_for_later_is_held_and_the_old_one_kept_until_then(world: World) -> None:
    async def main() -> None:
        world.ca.ttl = 3.0  # renewal after 1.5 s; the next one begins while the first is still valid
        async with running(world):
            first = await world.issued()
            world.ca.answer = lambda ca, call: [issue(ca, call, ttl=60.0, not_before=0.8), ca.root.pem.decode()]
            assert "is held until then" in await world.failure()
            assert world.secret.value is first
            held = world.manager.status.value.held_until
            assert time.time() < held < first.not_after
            calls = len(world.ca.calls)
            second = await world.issued(lambda s: s is not first)
            assert second.not_before == held <= time.time() < first.not_after
            assert matches(second)
            assert len(world.ca.calls) == calls, "nothing else was needed"
            assert world.manager.status.value.held_until == 0.0
            assert world.readiness.version == 0

    asyncio.run(main())


def test_a_certificate_that_begins_too_late_does_not_stop_the_asking(world: World) -> None:
    async def main() -> None:
        world.ca.ttl = 2.0
        async with running(world):
            first = await world.issued()
            world.ca.answer = BAD["future"][0]
            await world.failure(3)
            assert world.secret.value is first
            world.ca.heal()
            await world.issued(lambda s: s is not first)
            assert world.manager.status.value.held_until == 0.0

    asyncio.run(main())


def test_new_roots_overlap_with_the_former_ones(world: World) -> None:
    async def main() -> None:
        world.ca.ttl = 2.0
        async with running(world):
            first = await world.issued()
            other = Root("other")

            def moved(ca: FakeCa, call: Call) -> list[str]:
                uri: list[x509.GeneralName] = [x509.UniformResourceIdentifier(SPIFFE)]
                return [other.issue(call.csr.public_key(), uri, 60.0).decode(), other.pem.decode()]

            world.ca.answer = moved
            second = await world.issued(lambda s: s.serial != first.serial)
            assert second.roots == b"\n".join(sorted([world.ca.root.pem.strip(), other.pem.strip()]))
            third = await world.issued(lambda s: s.roots == other.pem.strip())
            assert third.serial == second.serial
            assert time.time() >= first.not_after
        assert {"roots-changed", "roots-dropped"} <= set(world.kinds())

    asyncio.run(main())


def test_without_overlap_the_new_roots_replace_the_former_ones_at_once(world: World) -> None:
    async def main() -> None:
        world.ca.ttl = 2.0
        world.reconfigure(root_overlap=False)
        async with running(world):
            first = await world.issued()
            other = Root("other")
            uri: list[x509.GeneralName] = [x509.UniformResourceIdentifier(SPIFFE)]
            world.ca.answer = lambda ca, call: [
                other.issue(call.csr.public_key(), uri, 60.0).decode(),
                other.pem.decode(),
            ]
            assert (await world.issued(lambda s: s is not first)).roots == other.pem.strip()

    asyncio.run(main())


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "ABORTED", "RESOURCE_EXHAUSTED"])
def test_a_passing_refusal_is_retried_within_one_attempt(world: World, code: str) -> None:
    async def main() -> None:
        world.ca.deny(grpc.StatusCode[code], times=2)
        async with running(world):
            await world.issued()
        assert world.manager.status.value.failed_by_reason == ()
        assert [c.metadata.get("x-retry-attempty") for c in world.ca.calls] == [None, "1", "2"]
        assert len({c.request.csr for c in world.ca.calls}) == 1

    asyncio.run(main())


def test_addresses_are_tried_in_turn(world: World) -> None:
    async def main() -> None:
        world.reconfigure(addresses=("127.0.0.1:1", "no-such-host.invalid:1", world.ca.address))
        async with running(world):
            await world.issued()
            assert world.manager.status.value.failed_by_reason == ()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"server_root": Root("stranger")}, "does not chain to the roots in"),
        ({"names": ("istiod.elsewhere.svc",)}, f"not for {SERVER_NAME}"),
        ({"server_ttl": -5.0}, "has expired"),
        ({"tls": False}, "does not speak TLS"),
    ],
    ids=["issuer", "name", "expired", "plaintext"],
)
def test_an_unverified_server_sees_neither_csr_nor_token(world: World, options: dict[str, Any], sentence: str) -> None:
    async def main() -> None:
        with FakeCa(world.ca.root, **options) as bad:
            world.reconfigure(addresses=(bad.address,))
            async with running(world):
                error = await world.failure()
                assert sentence in error
                assert bad.address in error
            assert not bad.calls

    asyncio.run(main())


def test_a_root_file_repaired_on_disk_is_used_without_restart(world: World) -> None:
    async def main() -> None:
        root = world.tmp / "root.pem"
        root.write_text("nothing of use")
        async with running(world):
            assert str(root) in await world.failure()
            root.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + world.ca.root.pem)
            await world.issued()

    asyncio.run(main())


def jwt(expires_in: float) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'exp': time.time() + expires_in})}.c2ln"


def test_the_token_file_is_read_for_every_attempt_and_an_expired_token_is_not_sent(world: World) -> None:
    async def main() -> None:
        token = world.tmp / "token"
        token.write_text(jwt(-60))
        world.ca.deny(grpc.StatusCode.UNAUTHENTICATED)
        async with running(world):
            await world.failure()
            token.write_text(good := jwt(600))
            await world.failure(len(world.ca.calls) + 1)
            world.ca.heal()
            await world.issued()
        assert "authorization" not in world.ca.calls[0].metadata
        assert world.ca.calls[-1].metadata["authorization"] == f"Bearer {good}"

    asyncio.run(main())


def test_without_a_token_the_certificate_in_use_authenticates_the_renewal(tmp_path: Path) -> None:
    async def main() -> None:
        root = Root()
        # One CA that hears tokens, then one that demands certificates: as a CA whose token reviews fail.
        with FakeCa(root, ttl=3.0) as first, FakeCa(root, demand_client=True) as second:
            (tmp_path / "root.pem").write_bytes(root.pem)
            (tmp_path / "token").write_text("token-1")
            peer = PeerConfig(
                (first.address, second.address), False, str(tmp_path / "root.pem"), SERVER_NAME,
                token_file=str(tmp_path / "token"),
            )  # fmt: skip
            world = World(tmp_path, first, IdentityConfig(SPIFFE, peer, ecdsa=True))
            async with running(world):
                initial = await world.issued()
                (tmp_path / "token").unlink()
                first.stop()
                await world.issued(lambda s: s is not initial)
            assert [c.client for c in second.calls] == [SPIFFE]
            assert "authorization" not in second.calls[0].metadata
            assert world.manager.status.value.credential == "certificate"

    asyncio.run(main())


def test_a_refused_token_gives_way_to_the_provisioned_certificate_which_is_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        root = Root()
        with FakeCa(root, ttl=2.0, demand_client=True) as ca:

            def picky(ca: FakeCa, call: Call) -> list[str]:
                if "authorization" in call.metadata:
                    raise Deny(grpc.StatusCode.UNAUTHENTICATED, "bad token")
                return FakeCa.sign(ca, call)

            ca.answer = picky
            for name, data in zip(("key", "cert-chain"), root.workload("spiffe://cluster.local/vm"), strict=True):
                (tmp_path / f"{name}.pem").write_bytes(data)
            (tmp_path / "root.pem").write_bytes(root.pem)
            (tmp_path / "token").write_text("token-1")
            peer = PeerConfig(
                (ca.address,), False, str(tmp_path / "root.pem"), SERVER_NAME, str(tmp_path / "key.pem"),
                str(tmp_path / "cert-chain.pem"), str(tmp_path / "token"),
            )  # fmt: skip
            world = World(tmp_path, ca, IdentityConfig(SPIFFE, peer, ecdsa=True))
            async with running(world):
                assert str(tmp_path / "token") in await world.failure()
                first = await world.issued()
                assert world.manager.status.value.credential == "provisioned"
                assert (world.manager.token(), world.manager.report()["valid"]) == ((None, ""), True)
                assert world.manager.report()["provisioned"]["san"] == ["spiffe://cluster.local/vm"]
                await world.issued(lambda s: s is not first)
        # The token went once; the renewal is asked for with what worked.
        assert [(c.client, "authorization" in c.metadata) for c in ca.calls] == [
            ("spiffe://cluster.local/vm", True),
            ("spiffe://cluster.local/vm", False),
            ("spiffe://cluster.local/vm", False),
        ]

    asyncio.run(main())


def test_a_constant_token(world: World) -> None:
    async def main() -> None:
        world.reconfigure(token="test_token", token_file="/nonexistent")
        async with running(world):
            await world.issued()
        assert world.ca.calls[0].metadata["authorization"] == "Bearer test_token"

    asyncio.run(main())


@pytest.mark.parametrize("behaviour", ["reset", "close", "silent"])
def test_a_ca_that_breaks_connections_costs_nothing_but_the_attempt(world: World, behaviour: str) -> None:
    async def main() -> None:
        world.ca.ttl = 2.0
        good = world.config
        async with running(world):
            first = await world.issued()
        with raw_listener(behaviour) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            world.secret.set(first)
            world.config = replace(good, ca=replace(good.ca, addresses=(address,)))
            world.manager = IdentityManager(world.config, world.secret, world.readiness, world.recorder, usual=0.3)
            async with running(world):
                assert address in await world.failure()
                assert world.secret.value is first
            listener.shutdown(socket.SHUT_RDWR)

    asyncio.run(main())


def test_a_slow_ca_is_waited_for_within_the_deadline(world: World) -> None:
    async def main() -> None:
        def slow(ca: FakeCa, call: Call) -> list[str]:
            time.sleep(0.5)
            return FakeCa.sign(ca, call)

        world.ca.answer = slow
        async with running(world):
            await world.issued()
        assert len(world.ca.calls) == 1
        assert world.manager.calls.seconds >= 0.5
        assert world.manager.calls.failed == 0

    asyncio.run(main())


def test_a_trust_bundle_is_merged_and_the_certificate_renewed(world: World) -> None:
    async def main() -> None:
        other = Root("other")
        async with running(world) as manager:
            first = await world.issued()
            bundle = (other.pem.decode(), "junk")
            manager.update_trust(bundle)
            merged = b"\n".join(sorted([world.ca.root.pem.strip(), other.pem.strip()]))
            assert world.secret.value is not None
            assert world.secret.value.roots == merged
            renewed = await world.issued(lambda s: s.chain != first.chain)
            assert renewed.roots == merged
            version = world.secret.version
            manager.update_trust(bundle)
            assert world.secret.version == version

    asyncio.run(main())


def test_a_large_chain_is_accepted(world: World) -> None:
    async def main() -> None:
        mid = world.ca.root.intermediate("mid").pem.decode()

        def large(ca: FakeCa, call: Call) -> list[str]:
            leaf, root = FakeCa.sign(ca, call)
            return [leaf, mid * (10_000_000 // len(mid)), root]

        world.ca.answer = large
        async with running(world):
            assert len((await world.issued()).chain) > 9 << 20

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ clocks


class Clock:
    """The real clocks, with a wall clock that can be set."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> Moment:
        return Moment(time.time() + self.offset, time.monotonic())


def with_clock(world: World) -> Clock:
    clock = Clock()
    world.manager = IdentityManager(world.config, world.secret, world.readiness, world.recorder, clock=clock, tick=0.02)
    return clock


def test_a_jump_past_the_rotation_point_renews_at_once(world: World) -> None:
    async def main() -> None:
        clock = with_clock(world)
        async with running(world):
            first = await world.issued()
            clock.offset = 2000.0
            await world.issued(lambda s: s is not first)
            assert world.readiness.version == 0
        assert "clock-jumped" in world.kinds()

    asyncio.run(main())


def test_a_jump_past_expiry_is_unready_until_the_clock_is_right_again(world: World) -> None:
    async def main() -> None:
        clock = with_clock(world)
        async with running(world):
            first = await world.issued()
            clock.offset = 4000.0
            unready = await asyncio.wait_for(world.readiness.until(lambda r: not r.ready), 10)
            assert "expired" in unready.reason
            assert "compare the clocks" in await world.failure()
            assert world.secret.value is first
            clock.offset = 0.0
            await asyncio.wait_for(world.readiness.until(lambda r: r.ready), 10)

    asyncio.run(main())


def test_a_jump_before_the_certificate_asks_for_another_and_keeps_it(world: World) -> None:
    async def main() -> None:
        clock = with_clock(world)
        async with running(world):
            first = await world.issued()
            clock.offset = -7200.0
            assert "valid only from" in await world.failure()
            assert world.secret.value is first
            assert world.readiness.value.ready
            clock.offset = 0.0
            await world.issued(lambda s: s is not first)

    asyncio.run(main())


def test_a_small_jump_changes_nothing(world: World) -> None:
    async def main() -> None:
        clock = with_clock(world)
        async with running(world):
            await world.issued()
            clock.offset = 600.0
            async with asyncio.timeout(10):
                while "clock-jumped" not in world.kinds():
                    await asyncio.sleep(0.01)
        assert len(world.ca.calls) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN]
)
def test_a_ca_that_echoes_what_it_was_sent_is_not_quoted(world: World, code: grpc.StatusCode) -> None:
    world.reconfigure(headers={"X-Tenant": "header-secret"})

    def echo(_: FakeCa, call: Call) -> list[str]:
        raise Deny(
            code, f"{call.metadata['authorization']} {call.metadata['x-tenant']}\n-----BEGIN PRIVATE KEY-----\nMHc"
        )

    async def main() -> None:
        world.ca.answer = echo
        async with running(world):
            sentence = await world.failure()
        assert sentence.count("(redacted)") == 3
        for secret in ("token-1", "header-secret", "MHc"):
            assert secret not in sentence + world.recorder.to_json()

    asyncio.run(main())


def test_what_people_see_of_an_outage(world: World) -> None:
    async def main() -> None:
        world.ca.ttl = 4.0
        async with running(world) as manager:
            await world.issued()
            world.ca.deny(grpc.StatusCode.UNAUTHENTICATED)
            await world.failure()
            found = manager.report()
            assert (found["refused"], found["failures"] > 0) == (["token"], True)
            assert found["failing_since"] <= found["last_failure"]["time"] <= time.time()
            assert [root["origin"] for root in found["roots"]] == ["current"]
            # Told by itself, long before the end.
            await manager.status.until(lambda _: "expiry-nears" in world.kinds())
            world.ca.hang()
            await eventually(lambda: manager.report()["attempt_in_progress"] is True)
            world.ca.heal()
            await manager.status.until(lambda status: not status.failures)
            found = manager.report()
            assert (found["last_error"], found["last_failure"]["recovered"]) == (None, True)
            assert not found["attempt_in_progress"]

    asyncio.run(asyncio.wait_for(main(), 30))


def test_an_issuer_that_expires_before_the_certificate_in_use_is_told(world: World) -> None:
    async def main() -> None:
        issuing = world.ca.root.intermediate("issuing", days=3 / 86400)

        def answer(ca: FakeCa, call: Call) -> list[str]:
            leaf = issuing.issue(call.csr.public_key(), [x509.UniformResourceIdentifier(SPIFFE)], 3600.0).decode()
            return [leaf, issuing.pem.decode(), ca.root.pem.decode()]

        world.ca.answer = answer
        async with running(world) as manager:
            first = await world.issued()
            world.ca.deny(grpc.StatusCode.NOT_FOUND)
            while "in-use-refused" not in world.kinds():
                manager.renew_now()
                await world.failure(manager.status.value.failures + 1)
            assert world.secret.value is first, "it is better than none"
        (event,) = [e for e in world.recorder.events() if e.kind == "in-use-refused"]
        assert "the issuer expired at" in event.message

    asyncio.run(main())
