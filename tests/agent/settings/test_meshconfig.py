"""The rest of the mesh file: tolerated where it is unknown, refused in one sentence where istio's agent refuses it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.settings.meshconfig import MESH_CONFIG, check
from agent.settings.protojson import fields_of

FULL: dict[str, Any] = {
    "proxyListenPort": 15001,
    "connect_timeout": "10s",
    "protocolDetectionTimeout": "0.100s",
    "ingressControllerMode": "STRICT",
    "accessLogEncoding": "JSON",
    "enableTracing": True,
    "enableAutoMtls": True,
    "outboundTrafficPolicy": {"mode": "ALLOW_ANY"},
    "trustDomain": "cluster.local",
    "trustDomainAliases": ["old.example.", "Td2"],
    "rootNamespace": "istio-system",
    "localityLbSetting": {
        "enabled": True,
        "distribute": [{"from": "r1/z1/*", "to": {"r1/*": 80, "r2": 20}}],
    },
    "dnsRefreshRate": "60s",
    "meshMTLS": {"minProtocolVersion": "TLSV1_3"},
    "tlsDefaults": {"ecdhCurves": ["P-256"]},
    "serviceSettings": [{"settings": {"clusterLocal": True}, "hosts": ["*.foo.svc.cluster.local", "*", "a"]}],
    "extensionProviders": [
        {"name": "o", "opentelemetry": {"service": "o.demo", "port": 4317, "resource_detectors": {"environment": {}}}},
        {"name": "f", "envoyFileAccessLog": {"path": "/dev/stdout", "logFormat": {"labels": {"a": ["any", 1]}}}},
        {"name": "z", "envoyExtAuthzGrpc": {"service": "a", "port": "9000", "timeout": "1s"}},
    ],
    "defaultProviders": {"metrics": ["prometheus"]},
    "discoverySelectors": [{"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}],
    "pathNormalization": {"normalization": "MERGE_SLASHES"},
    "certificates": None,
}


def test_what_istio_writes_is_accepted() -> None:
    assert check(FULL, "mesh") == []


def test_unknown_fields_are_tolerated_whatever_they_hold() -> None:
    fields = {"futureField": [1, {"x": None}], "caCertificates": [], "meshMTLS": {"cipher": 5}, "1": 2}
    assert check(fields, "mesh") == ["futureField", "meshMTLS.cipher", "1"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"enableTracing": "yes"}, "enableTracing must be true or false, not 'yes'"),
        ({"trustDomain": 5}, "trustDomain must be a string (quote it), not 5"),
        ({"rootNamespace": ["a"]}, "rootNamespace must be a string (quote it), not a list"),
        ({"connectTimeout": 10}, "connectTimeout must be a duration such as 5s, not 10"),
        ({"access_log_encoding": "XML"}, "accessLogEncoding must be one of TEXT, JSON, not 'XML'"),
        ({"trustDomainAliases": "a"}, "trustDomainAliases must be a list, not 'a'"),
        ({"outboundTrafficPolicy": "ALLOW_ANY"}, "outboundTrafficPolicy must be a mapping, not 'ALLOW_ANY'"),
        (
            {"extensionProviders": [{"name": "z", "zipkin": {"port": "x"}}]},
            "extensionProviders[0].zipkin.port must be a whole number, not 'x'",
        ),
        ({"proxyListenPort": 0}, "proxyListenPort must be a port between 1 and 65535, not 0"),
        ({"proxyListenPort": 65536}, "proxyListenPort must be a port between 1 and 65535, not 65536"),
        ({"connectTimeout": "3601s"}, "connectTimeout must be whole milliseconds between 1ms and 1h, not 3601s"),
        ({"connectTimeout": "0s"}, "connectTimeout must be whole milliseconds between 1ms and 1h, not 0s"),
        (
            {"protocolDetectionTimeout": "0.0001s"},
            "protocolDetectionTimeout must be whole milliseconds, not 0.000100s",
        ),
        ({"trustDomain": ""}, "trustDomain '' must be made of DNS labels"),
        ({"trustDomainAliases": ["a", "b_c"]}, "trustDomainAliases[1] 'b_c' must be made of DNS labels"),
        (
            {"serviceSettings": [{"hosts": ["a.*.b"]}]},
            "serviceSettings[0] has the host 'a.*.b', which is no DNS name with or without `*.`",
        ),
        ({"meshMTLS": {"ecdhCurves": ["P-256"]}}, "meshMTLS.ecdhCurves has no effect and is refused: use tlsDefaults"),
        (
            {"localityLbSetting": {"distribute": [{"from": "a", "to": {"a": 50}}]}},
            "localityLbSetting.distribute[0] must have weights from 1 to 100 whose sum is 100",
        ),
        (
            {"localityLbSetting": {"failover": [{"from": "a", "to": "a"}]}},
            "localityLbSetting.failover[0] must name two different regions",
        ),
        (
            {
                "localityLbSetting": {
                    "failover": [{"from": "a", "to": "b"}],
                    "distribute": [{"from": "a", "to": {"a": 100}}],
                }
            },
            "localityLbSetting may have distribute or failover, not both",
        ),
    ],
)
def test_one_sentence_that_names_file_and_field(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(fields, "./etc/istio/config/mesh")
    assert str(caught.value) == f"./etc/istio/config/mesh: {said}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(fields_of(MESH_CONFIG)) | st.text(), JSON, max_size=4))
def test_anything_is_accepted_or_refused_in_one_line(fields: dict[str, Any]) -> None:
    said = ""
    try:
        check(fields, "mesh")
    except ConfigError as e:
        said = str(e)
    assert "\n" not in said
