"""Texts, layers and refusals of ProxyConfig."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.settings.proxyconfig import DEFAULTS, load_text, merge, plane_addresses, server_name, split_address, validate


def built(*texts: str) -> dict[str, Any]:
    config: dict[str, Any] = dict(DEFAULTS)
    for text in texts:
        config = merge(config, load_text(text, "PROXY_CONFIG"), "PROXY_CONFIG")
    validate(config)
    return config


@pytest.mark.parametrize("text", ["", "  \n", "{}", "null", "# only a comment"])
def test_nothing(text: str) -> None:
    assert built(text) == DEFAULTS


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ('{"holdApplicationUntilProxyStarts": true}', "holdApplicationUntilProxyStarts", True),
        ("holdApplicationUntilProxyStarts: yes", "holdApplicationUntilProxyStarts", True),
        ("holdApplicationUntilProxyStarts: n", "holdApplicationUntilProxyStarts", False),
        ("meshId: 2020-01-01", "meshId", "2020-01-01"),
        ("concurrency: 0x10", "concurrency", 16),
        ("{discoveryAddress: 'h:1',}", "discoveryAddress", "h:1"),
    ],
)
def test_json_and_yaml(text: str, field: str, value: Any) -> None:
    assert built(text)[field] == value


def test_a_later_layer_replaces_whole_fields() -> None:
    config = built("tracing: {sampling: 5, zipkin: {address: 'z:1'}}", "tracing: {sampling: 7}")
    assert config["tracing"] == {"sampling": 7}
    assert built("extraStatTags: [a]", "extraStatTags: []").get("extraStatTags") is None
    assert built("concurrency: 3", "concurrency: null")["concurrency"] == 3


def test_metadata_and_headers_are_merged_by_key() -> None:
    config = built("proxyMetadata: {A: '1', B: '1'}", "proxyMetadata: {B: '2'}", "proxyMetadata: {}")
    assert config["proxyMetadata"] == {"A": "1", "B": "2"}
    config = built("proxyHeaders: {server: {disabled: true}}", "proxyHeaders: {requestId: {disabled: true}}")
    assert config["proxyHeaders"] == {"server": {"disabled": True}, "requestId": {"disabled": True}}


def test_the_cluster_name_is_one_of_two() -> None:
    assert "serviceCluster" not in built("tracingServiceName: CANONICAL_NAME_ONLY")
    assert "tracingServiceName" not in built("tracingServiceName: CANONICAL_NAME_ONLY", "serviceCluster: x")


@pytest.mark.parametrize(
    "text",
    [
        "{not json",
        "[1, 2]",
        "concurrency: abc",
        "controlPlaneAuthPolicy: SOMETHING",
        "discoveryAddress: nohost",
        "discoveryAddress: 'h:99999'",
        "discoveryAddress: 'h:0'",
        "discoveryAddress: ':1'",
        "discoveryAddress: 'fd00::1:15012'",
        "drainDuration: 1.5s",
        "drainDuration: soon",
        "drainDuration: 0s",
        "statusPort: 70000",
        "statusPort: 0",
        "proxyAdminPort: 0",
        "proxyAdminPort: 65536",
        "configPath: ''",
        "binaryPath: ''",
        "tracing: {zipkin: {address: nope}}",
        "tracing: {lightstep: {address: 'l:1'}}",
        "tracing: {tlsSettings: {mode: MUTUAL}}",
        "tracing: {customTags: {t: {header: {}}}}",
        "statsdUdpAddress: x",
        "envoyMetricsService: {address: x}",
        "privateKeyProvider: {cryptomb: {}}",
        "connectionSettings: {globalDownstreamConnectionLimit: 0}",
        "proxyMetadata: {x: y}",
        "!!python/object:os.system {}",
        "? {a: b}\n: c",
        "a: 1\n\tb: 2",
    ],
)
def test_refusals_are_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "interceptionMode: 7",
        "concurrency: -1",
        "terminationDrainDuration: -1s",
        "fileFlushInterval: -1s",
        "tracing: {sampling: 200}",
        "tracing: {customTags: {t: {}}}",
        "nosuch: 1",
    ],
)
def test_oddities_that_istio_accepts(text: str) -> None:
    built(text)


@pytest.mark.parametrize("text", ["&a {tracing: *a}", "&a {nosuch: [*a]}", "{x: &a [*a]}"])
def test_aliases_that_contain_themselves_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^X refers to itself or repeats itself: [^\n]*$"):
        load_text(text, "X")


def test_deep_nesting_is_refused() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ConfigError, match=r"nested too deeply|neither JSON nor YAML"):
            load_text(text, "X")


@pytest.mark.parametrize(
    ("address", "parts"),
    [("h:1", ("h", 1)), ("[fd00::1]:15012", ("fd00::1", 15012)), ("$(HOST_IP):8126", ("$(HOST_IP)", 8126))],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from([*DEFAULTS, "tracing", "proxyMetadata", "concurrency", "extraStatTags"]), VALUES)
)
def test_any_values(overlay: dict[str, Any]) -> None:
    with suppress(ConfigError):
        config = merge(DEFAULTS, overlay, "X")
        validate(config)
        json.dumps(config, allow_nan=False)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    with suppress(ConfigError):
        built(text)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("istiod:15012", ("istiod:15012",)),
        ("a:15012, b:15012", ("a:15012", "b:15012")),
        ("[fd00::1]:15012,srv+_xds._tcp.example.", ("[fd00::1]:15012", "srv+_xds._tcp.example.")),
    ],
)
def test_addresses_of_the_control_plane(text, addresses):
    assert plane_addresses(text) == addresses


@pytest.mark.parametrize("text", ["", "a", "a:15012,", ",a:15012", "srv+", "srv+a..b", "srv+a:15012", "srv+a b", "a:0"])
def test_unusable_addresses_of_the_control_plane(text):
    with pytest.raises(ValueError, match=r"must|port"):
        plane_addresses(text)


def test_the_name_to_verify():
    assert server_name("istiod.example:15012") == "istiod.example"
    assert server_name("localhost:15012") == "istiod.istio-system.svc"
