"""Static listeners."""

from typing import Any

import pytest

from agent.envoy.bootstrap_listeners import listeners
from tests.fakes.configs import make


def named(**kwargs: Any) -> dict[str, dict[str, Any]]:
    return {x["name"]: x for x in listeners(make(**kwargs), "127.0.0.1", "0.0.0.0", "")}


def manager(listener: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def routes(listener: dict[str, Any]) -> dict[str, str]:
    (host,) = manager(listener)["route_config"]["virtual_hosts"]
    return {r["match"]["prefix"]: r["route"]["cluster"] for r in host["routes"]}


def test_a_plain_pod() -> None:
    found = named()
    assert {name: routes(x) for name, x in found.items()} == {
        "0.0.0.0_15090": {"/stats/prometheus": "prometheus_stats"},
        "0.0.0.0_15021": {"/healthz/ready": "agent"},
    }
    assert all(x["ignore_global_conn_limit"] and x["bypass_overload_manager"] for x in found.values())


@pytest.mark.parametrize(("compression", "filters"), [(None, 4), (True, 4), (False, 1)])
def test_compression(compression: bool | None, filters: int) -> None:
    proxy = {} if compression is None else {"statsCompression": compression}
    assert len(manager(named(proxy=proxy)["0.0.0.0_15090"])["http_filters"]) == filters


def test_statistics_for_this_machine_only() -> None:
    found = named(proxy={"proxyMetadata": {"METRICS_LOCALHOST_ACCESS_ONLY": "true"}})
    assert set(found) == {"127.0.0.1_15090", "0.0.0.0_15021"}


def test_secure_listeners() -> None:
    found = named(env={"ENVOY_SECURE_METRICS_PORT": "1", "ENVOY_SECURE_MERGED_METRICS_PORT": "2"})
    assert routes(found["0.0.0.0_1"]) == {"/stats/prometheus": "prometheus_stats"}
    assert routes(found["0.0.0.0_2"]) == {"/stats/prometheus": "agent", "/metrics": "agent"}
    for name in ("0.0.0.0_1", "0.0.0.0_2"):
        (chain,) = found[name]["filter_chains"]
        assert chain["transport_socket"]["typed_config"]["require_client_certificate"] is True
        assert chain["filter_chain_match"] == {"transport_protocol": "tls"}


def test_proxy_protocol_on_the_health_listener() -> None:
    found = named(env={"ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL": "true", "ENVOY_STATUS_PORT": "5"})
    assert [f["name"] for f in found["0.0.0.0_5"]["listener_filters"]] == ["envoy.listener.proxy_protocol"]
    assert "listener_filters" not in found["0.0.0.0_15090"]
