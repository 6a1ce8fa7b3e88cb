import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent import certmetrics
from agent.config import IdentityConfig, PeerConfig
from agent.events import Recorder
from agent.identity.manager import IdentityManager
from agent.latest import Latest
from agent.model import Readiness, Secret
from agent.status.metrics import Registry
from tests.fakes.ca import Root


def test_the_certificate_appears_with_the_first_one_and_counts_below_zero() -> None:
    registry = Registry()
    secret: Latest[Secret | None] = Latest(None)
    certmetrics.certificate(registry, secret)
    assert registry.render() == ""
    secret.set(Secret(b"", b"", b"", "spiffe://a/ns/b/sa/c", 0.0, time.time() - 100, 0.0))
    (line,) = (x for x in registry.render().splitlines() if not x.startswith("#"))
    name, value = line.split()
    assert name == 'istio_agent_cert_expiry_seconds{resource_name="default"}'
    assert float(value) <= -100


def numbers(registry: Registry) -> dict[str, float]:
    lines = (line.removeprefix("istio_agent_").split() for line in registry.render().splitlines() if line[0] != "#")
    return {name: float(value) for name, value in lines}


def test_roots_and_intermediates_count_down_as_well() -> None:
    root, soon = Root("r", days=10), Root("soon", days=2)
    issuer = root.intermediate("i", days=1)
    _, leaf = issuer.workload("spiffe://a/b", 2 * 86400.0)
    end = time.time() + 2 * 86400.0
    secret: Latest[Secret | None] = Latest(
        Secret(leaf + issuer.pem + root.pem, b"", root.pem + soon.pem, "spiffe://a/b", 0.0, end, 0.0)
    )
    registry = Registry()
    certmetrics.certificate(registry, secret)
    found = numbers(registry)
    assert found['cert_expiry_seconds{resource_name="default"}'] == pytest.approx(2 * 86400, abs=60)
    assert found['cert_expiry_seconds{resource_name="ROOTCA"}'] == pytest.approx(2 * 86400, abs=60)
    assert found['cert_issuer_expiry_seconds{resource_name="default"}'] == pytest.approx(86400, abs=60)
    secret.set(Secret(leaf + root.pem, b"", root.pem, "spiffe://a/b", 0.0, end, 0.0))
    found = numbers(registry)
    assert found['cert_expiry_seconds{resource_name="ROOTCA"}'] == pytest.approx(10 * 86400, abs=60)
    assert not any("issuer" in name for name in found)


def test_mounted_files_count_down_under_their_names_and_in_the_place_of_the_cas() -> None:
    now = time.time()
    secret = Latest(Secret(b"", b"", b"", "spiffe://a/b", 0.0, now + 100, 0.0))
    registry = Registry()
    certmetrics.certificate(registry, secret, lambda: {"default": now + 5000, "file-cert:c~k": now - 50})  # type: ignore[arg-type]
    found = numbers(registry)
    assert found['cert_expiry_seconds{resource_name="default"}'] > 4000
    assert found['cert_expiry_seconds{resource_name="file-cert:c~k"}'] <= -50


def test_the_state_of_renewal(tmp_path: Path) -> None:
    peer = PeerConfig(("ca:15012",), False, "", "ca", token_file=str(tmp_path / "token"))
    recorder = Recorder()
    manager = IdentityManager(IdentityConfig("spiffe://a/b", peer), Latest(None), Latest(Readiness(True)), recorder)
    registry = Registry()
    certmetrics.identity(registry, manager)
    status = manager.status.value
    manager.status.set(
        replace(status, failures=3, refused=("token",), held_until=time.time() + 100, clock_jumps=2, credential="none")
    )
    found = numbers(registry)
    assert found["cert_renewal_failures"] == 3
    assert found['ca_credential_refused{credential="token"}'] == 1
    assert found["clock_jumps_total"] == 2
    assert 90 < found["cert_held_seconds"] <= 100
    manager.status.set(status)
    manager.calls.add(0.1, True)
    assert numbers(registry)["cert_renewal_failures"] == 0


def test_renewal_is_told_under_istios_names_and_ours(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("opaque")
    peer = PeerConfig(("ca:15012",), False, "", "ca", token_file=str(tmp_path / "token"))
    recorder = Recorder()
    manager = IdentityManager(IdentityConfig("spiffe://a/b", peer), Latest(None), Latest(Readiness(True)), recorder)
    registry = Registry()
    certmetrics.identity(registry, manager)
    assert registry.render() == ""
    for good in (False, False, True):
        manager.calls.add(0.125, good)
    manager.status.set(
        replace(
            manager.status.value,
            renewals=1,
            failed_by_reason=(("unavailable", 2),),
            credential="token",
            next_renewal=time.time() + 100,
        )
    )
    (tmp_path / "token").write_text("e30.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln")
    page = registry.render()
    for line in (
        'num_outgoing_requests{request_type="csr"} 3',
        'num_failed_outgoing_requests{request_type="csr"} 2',
        'outgoing_latency{request_type="csr"} 375',
        "cert_renewals_total 1",
        'cert_renewal_failures_total{reason="unavailable"} 2',
        'ca_credential{credential="token"} 1',
    ):
        assert f"istio_agent_{line}\n" in page
    values = dict(line.split() for line in page.splitlines() if not line.startswith("#"))
    assert 90 < float(values["istio_agent_cert_next_rotation_seconds"]) <= 100
    assert float(values["istio_agent_token_expiry_seconds"]) == pytest.approx(4102444800 - time.time(), abs=60)
    assert "num_outgoing_retries" not in page
    (tmp_path / "token").write_text("e30.eyJleHAiOjE3MDAwMDAwMDB9.c2ln")
    values = dict(line.split() for line in registry.render().splitlines() if not line.startswith("#"))
    assert float(values["istio_agent_token_expiry_seconds"]) == pytest.approx(1700000000 - time.time(), abs=60)
