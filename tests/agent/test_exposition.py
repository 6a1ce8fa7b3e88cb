import time
from pathlib import Path

from agent import certmetrics, exposition
from agent.config import IdentityConfig, PeerConfig, SdsConfig
from agent.dns.stats import DnsStats
from agent.events import Recorder
from agent.identity.manager import IdentityManager
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState, Readiness
from agent.sds.server import SdsServer
from agent.status.metrics import Registry
from agent.xds.ending import ENVOY, PLANE, Ending
from agent.xds.keeper import CacheReport
from agent.xds.ledger import Ledger
from agent.xds.wire import LISTENER, Head


def test_every_help_text_is_a_sentence_of_its_own(tmp_path: Path) -> None:
    registry = Registry()
    peer = PeerConfig(("ca:15012",), False, "", "ca", token_file=str(tmp_path / "token"))
    recorder = Recorder()
    manager = IdentityManager(IdentityConfig("spiffe://a/b", peer), Latest(None), Latest(Readiness(True)), recorder)
    certmetrics.certificate(registry, Latest(None))
    certmetrics.identity(registry, manager)
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
