"""Canonical protobuf JSON for every kind of field."""

from typing import Any

import pytest

from agent.settings.protojson import camel, unknown
from agent.settings.proxyschema import PROXY_CONFIG


def canonical(config: dict[str, Any]) -> Any:
    return PROXY_CONFIG[0](config, "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"status_port": "15031", "extra_stat_tags": ["a"]}, {"statusPort": 15031, "extraStatTags": ["a"]}),
        ({"noSuchField": 1, "meshId": None}, {}),
        ({"statusPort": 0, "meshId": "", "extraStatTags": [], "controlPlaneAuthPolicy": "NONE"}, {}),
        (
            {"controlPlaneAuthPolicy": 1, "interceptionMode": 7},
            {"controlPlaneAuthPolicy": "MUTUAL_TLS", "interceptionMode": 7},
        ),
        ({"interceptionMode": 0}, {}),
        ({"concurrency": 0, "statsCompression": False}, {"concurrency": 0, "statsCompression": False}),
        ({"serviceCluster": "", "tracing": {}}, {"serviceCluster": "", "tracing": {}}),
        ({"concurrency": 2.0, "fileFlushInterval": "2.5s"}, {"concurrency": 2, "fileFlushInterval": "2.500s"}),
        ({"tracing": {"sampling": 50.0}}, {"tracing": {"sampling": 50}}),
        ({"tracing": {"sampling": float("nan")}}, {"tracing": {"sampling": "NaN"}}),
        (
            {"tracing": {"custom_tags": {"t": {"literal": {"value": "v"}}}}},
            {"tracing": {"customTags": {"t": {"literal": {"value": "v"}}}}},
        ),
        ({"proxyMetadata": {2: "a", True: "b"}}, {"proxyMetadata": {"2": "a", "true": "b"}}),
        ({"readinessProbe": {"httpGet": {"port": 8080}}}, {"readinessProbe": {"httpGet": {"port": 8080}}}),
        (
            {"connectionSettings": {"globalDownstreamConnectionLimit": 0}},
            {"connectionSettings": {"globalDownstreamConnectionLimit": 0}},
        ),
    ],
)
def test_spelling(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert canonical(given) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"concurrency": "abc"}, "concurrency must be a whole number, not 'abc'"),
        ({"concurrency": True}, "concurrency must be a whole number"),
        ({"concurrency": 1.5}, "concurrency must be a whole number"),
        ({"statusPort": 2**31}, "statusPort must be between"),
        ({"meshId": 5}, "meshId must be a string"),
        ({"configPath": "a\0b"}, r"configPath must be UTF-8 text without NUL, not 'a\x00b'"),
        ({"meshId": "\ud800"}, r"meshId must be UTF-8 text without NUL, not '\ud800'"),
        ({"controlPlaneAuthPolicy": "SOMETHING"}, "controlPlaneAuthPolicy must be one of NONE, MUTUAL_TLS, INHERIT"),
        ({"holdApplicationUntilProxyStarts": "yes"}, "holdApplicationUntilProxyStarts must be true or false"),
        ({"extraStatTags": "a"}, "extraStatTags must be a list"),
        ({"extraStatTags": ["a", 1]}, "extraStatTags[1] must be a string"),
        ({"tracing": {"tlsSettings": {"mode": "X"}}}, "tracing.tlsSettings.mode must be one of"),
        ({"tracing": {"sampling": "x"}}, "tracing.sampling must be a number"),
        ({"tracing": []}, "tracing must be a mapping, not a list"),
        ({"proxyMetadata": {"x": True}}, "proxyMetadata.x must be a string"),
        ({"drainDuration": 5}, "drainDuration must be a duration such as 5s"),
        ({"drainDuration": "soon"}, "drainDuration: 'soon' is not a duration"),
    ],
)
def test_refusals_name_the_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:  # noqa: RUF043 - the text is compared below
        canonical(given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("snake", "expected"),
    [("file_flush_min_size_kb", "fileFlushMinSizeKb"), ("sni", "sni"), ("alreadyCamel", "alreadyCamel")],
)
def test_camel(snake: str, expected: str) -> None:
    assert camel(snake) == expected


def test_unknown_fields_are_named_with_their_path() -> None:
    found = unknown({"meshId": "m", "nope": 1, "tracing": {"zipkin": {"adress": "z:1"}, "new": {}}}, PROXY_CONFIG)
    assert found == ["nope", "tracing.zipkin.adress", "tracing.new"]
