import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent import exposition
from agent.config import IdentityConfig, PeerConfig, SdsConfig
from agent.dns.stats import DnsStats
from agent.events import Recorder
from agent.identity.manager import IdentityManager
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState, Readiness, Secret
from agent.sds.server import SdsServer
from agent.status.metrics import Registry
from agent.xds.ending import ENVOY, PLANE, Ending
from agent.xds.keeper import CacheReport
from agent.xds.ledger import Ledger
from agent.xds.wire import LISTENER, Head
from tests.fakes.ca import Root


def test_the_certificate_appears_with_the_first_one_and_counts_below_zero() -> None:
    registry = Registry()
    secret: Latest[Secret | None] = Latest(None)
    exposition.certificate(registry, secret)
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
    exposition.certificate(registry, secret)
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
    exposition.certificate(registry, secret, lambda: {"default": now + 5000, "file-cert:c~k": now - 50})  # type: ignore[arg-type]
    found = numbers(registry)
    assert found['cert_expiry_seconds{resource_name="default"}'] > 4000
    assert found['cert_expiry_seconds{resource_name="file-cert:c~k"}'] <= -50


def test_the_state_of_renewal(tmp_path: Path) -> None:
    peer = PeerConfig(("ca:15012",), False, "", "ca", token_file=str(tmp_path / "token"))
    recorder = Recorder()
    manager = IdentityManager(IdentityConfig("spiffe://a/b", peer), Latest(None), Latest(Readiness(True)), recorder)
    registry = Registry()
    exposition.identity(registry, manager)
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


def test_every_help_text_is_a_sentence_of_its_own(tmp_path: Path) -> None:
    registry = Registry()
    peer = PeerConfig(("ca:15012",), False, "", "ca", token_file=str(tmp_path / "token"))
    recorder = Recorder()
    manager = IdentityManager(IdentityConfig("spiffe://a/b", peer), Latest(None), Latest(Readiness(True)), recorder)
    exposition.certificate(registry, Latest(None))
    exposition.identity(registry, manager)
    exposition.sds(registry, SdsServer(SdsConfig(socket_path=str(tmp_path / "s")), Latest(None), recorder))
    exposition.events(registry, recorder)
    exposition.envoy(registry, Latest(EnvoyState(EnvoyPhase.RUNNING)))
    exposition.xds(registry, Ledger())
    exposition.xds_cache(registry, lambda: CacheReport("live", "", 0, 0, 0.0))
    exposition.dns(registry, DnsStats())
    texts = {family.name: family.what for family in registry._families.values()}
    assert all(text.endswith(".") and len(text.split()) >= 4 for text in texts.values()), texts
    assert not [name for name, text in texts.items() if text.split()[0] in ("Those", "They", "These", "It")]
    assert len({*texts.values()}) == len(texts)


def test_crashes_and_restarts_of_envoy() -> None:
    registry = Registry()
    state = Latest(EnvoyState(EnvoyPhase.RUNNING, 7, restarts=2, crashes=3))
    exposition.envoy(registry, state)
    page = registry.render()
    assert "istio_agent_envoy_crashes_total 3\n" in page
    assert "istio_agent_envoy_restarts_total 2\n" in page


def test_what_the_flight_recorder_dropped() -> None:
    registry, recorder = Registry(), Recorder(size=1)
    exposition.events(registry, recorder)
    recorder.record("dns", "x", "y")
    assert registry.render() == ""
    recorder.record("dns", "x", "y")
    assert 'istio_agent_events_dropped_total{component="dns"} 1\n' in registry.render()


def test_the_cache_for_outages() -> None:
    registry = Registry()
    report = CacheReport("stale", "", 1000, 7, 12.5)
    exposition.xds_cache(registry, lambda: report)
    page = registry.render()
    for line in ("stale 1", "cache_age_seconds 12.5", "cache_bytes 1000", "cache_resources 7", "cache_off 0"):
        assert f"istio_agent_xds_{line}\n" in page
    report = CacheReport("off", "too big", 0, 0, 0.0)
    assert "istio_agent_xds_cache_off 1\n" in registry.render()


def test_dns_numbers_appear_with_their_first_use() -> None:
    registry, stats = Registry(), DnsStats()
    exposition.dns(registry, stats)
    assert registry.render() == ""
    stats.requests = 5
    stats.upstream_requests = 2
    stats.observe(0.002)
    page = registry.render()
    assert "istio_agent_dns_requests_total 5\n" in page
    assert "istio_agent_dns_upstream_requests_total 2\n" in page
    assert "dns_upstream_failures_total" not in page
    assert 'istio_agent_dns_upstream_request_duration_seconds_bucket{le="0.005"} 1\n' in page


def test_renewal_is_told_under_istios_names_and_ours(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("opaque")
    peer = PeerConfig(("ca:15012",), False, "", "ca", token_file=str(tmp_path / "token"))
    recorder = Recorder()
    manager = IdentityManager(IdentityConfig("spiffe://a/b", peer), Latest(None), Latest(Readiness(True)), recorder)
    registry = Registry()
    exposition.identity(registry, manager)
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


def test_the_secret_servers_troubles_appear_with_the_first(tmp_path: Path) -> None:
    server = SdsServer(SdsConfig(socket_path=str(tmp_path / "s")), Latest(None), Recorder())
    registry = Registry()
    exposition.sds(registry, server)
    samples = [line for line in registry.render().splitlines() if not line.startswith("#")]
    assert samples == ["istio_agent_sds_streams 0"]
    server.ledger.rejects, server.ledger.stale = 2, 1
    page = registry.render()
    assert 'istio_agent_pilot_total_xds_rejects{type="sds"} 2\n' in page
    assert 'istio_agent_pilot_xds_expired_nonce{type="sds"} 1\n' in page
    server.ledger.received(123)
    server.ledger.sent(0.05)
    server.ledger.timeouts += 1
    page = registry.render()
    assert "# TYPE istio_agent_pilot_xds_recv_max gauge\nistio_agent_pilot_xds_recv_max 123\n" in page
    assert "# TYPE istio_agent_pilot_xds_send_time histogram\n" in page
    assert 'istio_agent_pilot_xds_send_time_bucket{le="0.1"} 1\n' in page
    assert "istio_agent_pilot_xds_write_timeout 1\n" in page
    assert "num_file_" not in page


def test_the_discovery_streams_under_istios_names_and_ours() -> None:
    ledger, registry = Ledger(), Registry()
    exposition.xds(registry, ledger)
    assert registry.render() == ""  # nothing before its first use
    ledger.failures = 2
    ledger.requested(Head(LISTENER, "n", "", "bad"), 10, 0.0)
    ledger.responded(Head(LISTENER, "n", "v"), 2000, time.monotonic() - 5)
    ledger.ended(Ending("INTERNAL", "x", by=PLANE))
    ledger.ended(Ending("CANCELLED", by=ENVOY))
    page = registry.render()
    for line in (
        "istiod_connection_failures 2",
        'istiod_connection_terminations{type="error"} 1',
        'envoy_connection_terminations{type="cancelled"} 1',
        "xds_proxy_requests 1",
        "xds_proxy_responses 1",
        "xds_request_bytes_total 10",
        "xds_response_bytes_total 2000",
        'xds_nacks_total{type="Listener"} 1',
        'xds_push_bytes_bucket{le="1024"} 0',
        'xds_push_bytes_bucket{le="10240"} 1',
        "xds_push_bytes_sum 2000",
    ):
        assert f"istio_agent_{line}\n" in page, line
    values = dict(line.split() for line in page.splitlines() if not line.startswith("#"))
    assert 5 <= float(values["istio_agent_xds_seconds_since_last_response"]) < 60
