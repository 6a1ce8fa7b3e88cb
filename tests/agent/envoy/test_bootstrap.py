"""The bootstrap as a whole: what every pod gets, and what changes it."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from agent.envoy.bootstrap import render, side_files
from agent.errors import ConfigError
from tests.fakes.configs import make


def test_order_and_node() -> None:
    out = render(make())
    assert list(out) == [
        "application_log_config",
        "node",
        "layered_runtime",
        "bootstrap_extensions",
        "stats_config",
        "admin",
        "dynamic_resources",
        "static_resources",
        "overload_manager",
        "deferred_stat_options",
    ]
    assert out["node"]["id"] == "sidecar~10.77.0.2~app-1.demo~demo.svc.cluster.local"
    assert out["node"]["cluster"] == "istio-proxy.demo"
    json.dumps(out)


def test_envoy_dials_its_agent_again_at_once() -> None:
    ads = render(make())["dynamic_resources"]["ads_config"]
    assert ads["api_type"] == "DELTA_GRPC"
    (service,) = ads["grpc_services"]
    assert service["envoy_grpc"]["cluster_name"] == "xds-grpc"
    assert service["envoy_grpc"]["retry_policy"]["retry_back_off"] == {"base_interval": "0.02s", "max_interval": "1s"}


def test_state_of_the_world() -> None:
    assert render(make(env={"ISTIO_DELTA_XDS": "false"}))["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"
    assert (
        render(make("waypoint", env={"ISTIO_DELTA_XDS": "false"}))["dynamic_resources"]["ads_config"]["api_type"]
        == "DELTA_GRPC"
    )


@pytest.mark.parametrize(
    ("role", "env", "want"),
    [
        ("sidecar", {}, False),
        ("waypoint", {}, True),
        ("sidecar", {"PEER_METADATA_DISCOVERY": "true"}, True),
        ("sidecar", {"PEER_METADATA_DISCOVERY": "true", "ISTIO_DELTA_XDS": "false"}, False),
    ],
)
def test_metadata_discovery(role: str, env: Mapping[str, str], want: bool) -> None:
    out = render(make(role, env=env))
    names = [e["name"] for e in out["bootstrap_extensions"]]
    assert names == (["metadata_discovery"] if want else []) + ["envoy.bootstrap.internal_listener"]
    patterns = out["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"]
    assert ({"prefix": "workload_discovery"} in patterns) is want


def test_runtime() -> None:
    def flags(**kwargs: Any) -> dict[str, Any]:
        layer: dict[str, Any] = render(make(**kwargs))["layered_runtime"]["layers"][0]["static_layer"]
        return layer

    assert len(flags()) == 5
    assert (
        flags(env={"COMPLIANCE_POLICY": "fips-140-2"})["envoy.reloadable_features.google_grpc_disable_tls_13"] is True
    )
    strip = "envoy.reloadable_features.http_strip_fragment_from_path_unsafe_if_disabled"
    assert flags(env={"HTTP_STRIP_FRAGMENT_FROM_PATH_UNSAFE_IF_DISABLED": "false"})[strip] == "false"
    found = flags(
        proxy={"runtimeValues": {"re2.max_program_size.error_level": "", "on": "true", "off": "false", "n": "17"}}
    )
    assert "re2.max_program_size.error_level" not in found
    assert (found["on"], found["off"], found["n"]) == (True, False, "17")


@pytest.mark.parametrize(
    ("proxy", "env", "limit"),
    [
        ({}, {}, 2147483647),
        (
            {
                "connectionSettings": {"globalDownstreamConnectionLimit": 5},
                "proxyMetadata": {"ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS": "7"},
            },
            {},
            5,
        ),
        (
            {
                "proxyMetadata": {"ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS": "7"},
                "runtimeValues": {"overload.global_downstream_max_connections": "9"},
            },
            {},
            7,
        ),
        ({"runtimeValues": {"overload.global_downstream_max_connections": "9"}}, {}, "9"),
        ({}, {"ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS": "7"}, 2147483647),
    ],
)
def test_connection_limit(proxy: Mapping[str, Any], env: Mapping[str, str], limit: Any) -> None:
    monitor = render(make(proxy=proxy, env=env))["overload_manager"]["resource_monitors"][0]
    assert monitor["typed_config"]["max_active_downstream_connections"] == limit


@pytest.mark.parametrize(
    ("ips", "dual", "localhost", "names", "more", "family"),
    [
        (["10.0.0.1"], "true", "127.0.0.1", "0.0.0.0", [], "V4_ONLY"),
        (["fd00::1"], "true", "::1", "::", [], "V6_ONLY"),
        (["fd00::1", "10.0.0.1"], "false", "127.0.0.1", "0.0.0.0", [], "V4_ONLY"),
        (["10.0.0.1", "fd00::1"], "true", "127.0.0.1", "0.0.0.0", ["::"], "ALL"),
        (["fd00::1", "10.0.0.1"], "true", "::1", "::", ["0.0.0.0"], "ALL"),
    ],
)
def test_address_families(ips: list[str], dual: str, localhost: str, names: str, more: list[str], family: str) -> None:
    interfaces = {f"eth{i}": ip for i, ip in enumerate(ips)}
    c = make(
        env={"INSTANCE_IP": None, "ISTIO_DUAL_STACK": dual},
        interfaces=interfaces,
        proxy={"tracing": {"zipkin": {"address": "z:1"}}},
    )
    out = render(c)
    assert out["admin"]["address"]["socket_address"]["address"] == localhost
    for listener, port in zip(out["static_resources"]["listeners"], (15090, 15021), strict=True):
        assert listener["name"] == f"{names}_{port}"
        found = [a["address"]["socket_address"]["address"] for a in listener.get("additional_addresses", [])]
        assert found == more
    assert {c["dns_lookup_family"] for c in out["static_resources"]["clusters"] if c["type"] == "STRICT_DNS"} == {
        family
    }


def test_cluster_manager() -> None:
    assert "cluster_manager" not in render(make())
    env = {"ISTIO_META_LOAD_STATS_CONFIG_JSON": '{"api_type":"GRPC"}', "ISTIO_META_ENABLE_SELF_DISCOVERY": "true"}
    assert render(make("--outlierLogPath=/o", env=env))["cluster_manager"] == {
        "outlier_detection": {"event_log_path": "/o"},
        "load_stats_config": {"api_type": "GRPC"},
        "local_cluster_name": "local_cluster",
        "enable_deferred_cluster_creation": True,
    }
    with pytest.raises(ConfigError, match="LOAD_STATS_CONFIG_JSON"):
        render(make(env={"ISTIO_META_LOAD_STATS_CONFIG_JSON": "{"}))


def test_logs_as_json() -> None:
    assert "json_format" in render(make("--log_as_json"))["application_log_config"]["log_format"]


def test_a_bootstrap_of_the_users_own_is_not_touched() -> None:
    c = make(env={"ISTIO_BOOTSTRAP": "b"}, files={"b": b'{"node": {"id": "mine"}}'})
    assert render(c) == {"node": {"id": "mine"}}


def test_side_files() -> None:
    assert side_files(make()) == {}
    c = make(proxy={"tracing": {"lightstep": {"address": "l:1", "accessToken": "t"}}})
    assert side_files(c) == {"etc/istio/proxy/lightstep_access_token.txt": "t"}
