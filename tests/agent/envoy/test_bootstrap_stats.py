"""Which statistics exist, and how their names are cut up."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from agent.envoy.bootstrap_stats import TAGS_FIRST, intervals, stats_config
from tests.fakes.configs import make


def config(warnings: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
    return stats_config(make(**kwargs), False, ([] if warnings is None else warnings).append)


def patterns(**kwargs: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = config(**kwargs)["stats_matcher"]["inclusion_list"]["patterns"]
    return found


def annotated(**values: str) -> dict[str, str]:
    return {f"sidecar.istio.io/{k}": v for k, v in values.items()}


@pytest.mark.parametrize(
    ("name", "stat", "value"),
    [
        ("cluster_name", "cluster.outbound|80||a.b;.upstream_rq", "outbound|80||a.b"),
        ("http_conn_manager_prefix", "http.inbound_0.0.0.0_8080;.downstream_cx", "inbound_0.0.0.0_8080"),
        ("http_conn_manager_prefix", "http.outbound_[2001:db8::1]_80;.rq", "outbound_[2001:db8::1]_80"),
        ("response_code", "x.upstream_rq_503", "503"),
        ("response_code_class", "x.upstream_rq_5xx", "5xx"),
        ("listener_address", "listener.0.0.0.0_15090.downstream_cx_active", "0.0.0.0_15090"),
        ("tcp_prefix", "tcp.inbound.cx_total", "inbound"),
        ("thread_name", "server.worker_0.watchdog_miss", "worker_0"),
        ("mongo_prefix", "mongo.p.cmd.x", "p"),
    ],
)
def test_tags_match(name: str, stat: str, value: str) -> None:
    # Python lacks POSIX classes; Envoy's engine has them.
    regex = dict(TAGS_FIRST)[name].replace("[:digit:]", r"\d")
    match = re.search(regex, stat)
    assert match
    assert value in match.groups()


def test_extra_tags_are_unique_and_in_order() -> None:
    tags = config(proxy={"extraStatTags": ["a", "", "b"]}, annotations=annotated(extraStatTags="a,c,,c"))["stats_tags"]
    names = [t["tag_name"] for t in tags]
    assert names[9:13] == ["a", "b", "c", "cache"]
    assert tags[9]["regex"] == r"(a=\.=(.*?);\.;)"


def test_inclusion() -> None:
    matcher = {"inclusionPrefixes": ["p1", "http.{pod_ip}_"], "inclusionSuffixes": ["s1"], "inclusionRegexps": ["r"]}
    found = patterns(
        proxy={"proxyStatsMatcher": matcher},
        env={"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true"},
        interfaces={"a": "10.77.0.2", "b": "10.77.0.3"},
    )
    for want in (
        {"prefix": "p1"},
        {"prefix": "http.10.77.0.2_"},
        {"prefix": "http.10.77.0.3_"},
        {"suffix": "s1"},
        {"safe_regex": {"regex": "r"}},
        {"suffix": "downstream_cx_active"},
        {"prefix": "cluster.xds-grpc"},
    ):
        assert want in found


def test_annotations_replace_the_configured_lists() -> None:
    proxy = {"proxyStatsMatcher": {"inclusionPrefixes": ["p1"], "inclusionSuffixes": ["s1"]}}
    found = patterns(proxy=proxy, annotations=annotated(statsInclusionPrefixes="a,b", statsInclusionSuffixes=""))
    assert {"prefix": "a"} in found
    assert {"prefix": "p1"} not in found
    assert {"suffix": "s1"} in found


def test_histogram_buckets() -> None:
    found = config(annotations=annotated(statsHistogramBuckets='{"istio":[1,5.5],"a":[0.5]}'))[
        "histogram_bucket_settings"
    ]
    assert found == [
        {"match": {"prefix": "a"}, "buckets": [0.5]},
        {"match": {"prefix": "istio"}, "buckets": [1.0, 5.5]},
    ]


@pytest.mark.parametrize("text", ["{x", "[]", "[1]", '{"a": 1}', '{"a": ["x"]}', "5"])
def test_bad_histogram_buckets_are_a_warning(text: str) -> None:
    warnings: list[str] = []
    assert "histogram_bucket_settings" not in config(warnings, annotations=annotated(statsHistogramBuckets=text))
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("flush", "eviction", "want", "warned"),
    [
        ("2s", "10s", {"stats_flush_interval": "2s", "stats_eviction_interval": "10s"}, False),
        ("1m", None, {"stats_flush_interval": "60s"}, False),
        ("500ms", None, {"stats_flush_interval": "0.5s"}, False),
        (None, "10s", {"stats_eviction_interval": "10s"}, False),
        (None, "7s", {}, True),
        ("3s", "10s", {"stats_flush_interval": "3s"}, True),
        ("soon", None, {}, True),
        ("0s", None, {}, True),
    ],
)
def test_intervals(flush: str | None, eviction: str | None, want: Mapping[str, str], warned: bool) -> None:
    given = {k: v for k, v in (("statsFlushInterval", flush), ("statsEvictionInterval", eviction)) if v is not None}
    warnings: list[str] = []
    assert intervals(make(annotations=annotated(**given)), warnings.append) == want
    assert bool(warnings) is warned
