import time

from agent import exposition
from agent.dns.stats import DnsStats
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState, Secret
from agent.status.metrics import Registry


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


def test_crashes_and_restarts_of_envoy() -> None:
    registry = Registry()
    state = Latest(EnvoyState(EnvoyPhase.RUNNING, 7, restarts=2, crashes=3))
    exposition.envoy(registry, state)
    page = registry.render()
    assert "istio_agent_envoy_crashes_total 3\n" in page
    assert "istio_agent_envoy_restarts_total 2\n" in page


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
