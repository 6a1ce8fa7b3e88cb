"""What the control plane learns about the node."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Platform
from agent.envoy.metadata import build, cluster, locality
from agent.errors import ConfigError
from agent.record import replace
from tests.fakes.configs import make


def metadata(warnings: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
    return build(make(**kwargs), ([] if warnings is None else warnings).append)


def test_a_plain_pod() -> None:
    found = metadata()
    assert found.pop("PROXY_CONFIG")["statusPort"] == 15020
    assert found == {
        "CLUSTER_ID": "Kubernetes",
        "ENVOY_PROMETHEUS_PORT": 15090,
        "ENVOY_SKIP_DEPRECATED_LOGS": "true",
        "ENVOY_STATUS_PORT": 15021,
        "INSTANCE_IPS": "10.77.0.2",
        "ISTIO_VERSION": "1.30.1",
        "METADATA_DISCOVERY": "false",
        "NAME": "app-1",
        "NAMESPACE": "demo",
        "PILOT_SAN": ["istiod.istio-system.svc"],
        "SERVICE_ACCOUNT": "app",
        "WORKLOAD_IDENTITY_SOCKET_FILE": "socket",
    }
    assert list(found) == sorted(found)


def test_environment_beats_proxy_metadata_and_the_rest_of_it_stays_out() -> None:
    found = metadata(
        env={"ISTIO_META_A": "env"}, proxy={"proxyMetadata": {"ISTIO_META_A": "c", "ISTIO_META_B": "b", "OTHER": "x"}}
    )
    assert (found["A"], found["B"]) == ("env", "b")
    assert "OTHER" not in found


@pytest.mark.parametrize(
    ("text", "want"), [("true", "true"), ("1", "true"), ("T", "true"), ("0", "0"), ("F", "F"), ("", "")]
)
def test_booleans_are_text(text: str, want: str) -> None:
    assert metadata(env={"ISTIO_META_DNS_CAPTURE": text})["DNS_CAPTURE"] == want


def test_bad_booleans_are_refused() -> None:
    with pytest.raises(ConfigError, match="ISTIO_META_ENABLE_HBONE='maybe'"):
        metadata(env={"ISTIO_META_ENABLE_HBONE": "maybe"})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (
            '[\n {"containerPort":8080,"name":"http","protocol":"TCP","x":1}\n ,{"containerPort":9090}\n]',
            '[{"name":"http","containerPort":8080,"protocol":"TCP"},{"containerPort":9090,"protocol":""}]',
        ),
        ("[]", "[]"),
        ("", ""),
    ],
)
def test_ports_are_spelled_anew(text: str, want: str) -> None:
    assert metadata(env={"ISTIO_META_POD_PORTS": text})["POD_PORTS"] == want


@pytest.mark.parametrize("text", ["[{", "{}", "[1]", '[{"containerPort":"http"}]', '[{"containerPort":true}]'])
def test_bad_ports_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="ISTIO_META_POD_PORTS"):
        metadata(env={"ISTIO_META_POD_PORTS": text})


def test_labels() -> None:
    found = metadata(
        env={"ISTIO_METAJSON_LABELS": '{"app":"vm","team":"x"}'},
        labels={"app": "pod", "pod-template-hash": "1", "topology.istio.io/locality": "r1.z1"},
        annotations={"k": "v"},
    )
    assert found["LABELS"] == {
        "app": "pod",
        "team": "x",
        "topology.istio.io/locality": "r1.z1",
        "istio-locality": "r1/z1",
    }
    assert found["STATIC_LABELS"] == {"app": "vm", "team": "x"}
    assert (found["app"], found["team"], found["ANNOTATIONS"]) == ("vm", "x", {"k": "v"})


def test_labels_of_the_instance_are_static_and_below_those_of_a_pod() -> None:
    platform = Platform("gcp", labels={"app": "vm", "zone": "z"})
    env = {"ISTIO_METAJSON_LABELS": '{"app":"x","team":"t"}'}
    on_vm = build(replace(make(env=env), platform=platform), print)
    assert on_vm["STATIC_LABELS"] == {"app": "vm", "team": "t", "zone": "z"}
    assert on_vm["LABELS"] == {"app": "x", "team": "t"}
    in_pod = build(replace(make(env=env, labels={"team": "pod"}), platform=platform), print)
    assert in_pod["LABELS"] == {"app": "vm", "team": "pod", "zone": "z"}


def test_json_metadata() -> None:
    warnings: list[str] = []
    env = {
        "ISTIO_METAJSON_X": '{"deep":{"n":1.5}}',
        "ISTIO_METAJSON_BAD": "{nope",
        "ISTIO_METAJSON_LIST": "[]",
        "ISTIO_METAJSON_N": '{"n": NaN}',
    }
    assert metadata(warnings, env=env)["deep"] == {"n": 1.5}
    assert len(warnings) == 3


def test_flags_ports_and_sockets() -> None:
    c = make(
        "--stsPort=5",
        "--outlierLogPath=/o",
        env={"ENVOY_SECURE_METRICS_PORT": "1", "DNS_PROXY_ADDR": "a:1", "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "1"},
        sockets=["./var/run/secrets/workload-spiffe-uds/socket", "./var/run/secrets/credential-uds/socket"],
    )
    found = build(c, [].append)
    want = {
        "STS_PORT": "5",
        "OUTLIER_LOG_PATH": "/o",
        "ENVOY_SECURE_METRICS_PORT": 1,
        "DNS_PROXY_ADDR": "a:1",
        "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true",
        "credential": "true",
        "file-credential": "true",
    }
    assert {k: found[k] for k in want} == want


def test_no_mutual_tls_no_san() -> None:
    assert "PILOT_SAN" not in metadata(proxy={"controlPlaneAuthPolicy": "NONE"})
    assert metadata(proxy={"discoveryAddress": "localhost:1"})["PILOT_SAN"] == ["istiod.istio-system.svc"]
    several = metadata(proxy={"discoveryAddress": "a:1,srv+x,b:1"}, env={"CA_ADDR": "c:1"})
    assert several["PILOT_SAN"] == ["a", "b"]


def test_without_a_version_we_claim_our_own() -> None:
    assert metadata(env={"ISTIO_META_ISTIO_VERSION": None})["ISTIO_VERSION"].startswith("1.")


@pytest.mark.parametrize(
    ("labels", "want"),
    [
        ({"istio-locality": "us/z/s"}, {"region": "us", "zone": "z", "sub_zone": "s"}),
        ({"topology.istio.io/locality": "us", "istio-locality": "x"}, {"region": "us"}),
        ({"istio-locality": "a.b.c"}, {"region": "a", "zone": "b", "sub_zone": "c"}),
        ({"istio-locality": "a.b/c"}, {"region": "a.b", "zone": "c"}),
        ({}, {}),
    ],
)
def test_locality(labels: Mapping[str, str], want: Mapping[str, str]) -> None:
    assert locality(labels) == want


@pytest.mark.parametrize(
    ("labels", "env", "proxy", "want"),
    [
        ({}, {}, {}, "istio-proxy.demo"),
        ({}, {"POD_NAMESPACE": None}, {}, "istio-proxy"),
        ({"app": "a", "app.kubernetes.io/name": "k", "service.istio.io/canonical-name": "c"}, {}, {}, "a.demo"),
        ({"app.kubernetes.io/name": "k", "service.istio.io/canonical-name": "c"}, {}, {}, "k.demo"),
        ({"service.istio.io/canonical-name": "c"}, {}, {}, "c.demo"),
        ({}, {"ISTIO_META_WORKLOAD_NAME": "w"}, {}, "w.demo"),
        ({"app": "a"}, {}, {"serviceCluster": "x"}, "x"),
        ({"app": "a"}, {}, {"serviceCluster": "istio-proxy"}, "a.demo"),
        ({"app": "a", "service.istio.io/canonical-name": "c"}, {}, {"tracingServiceName": "CANONICAL_NAME_ONLY"}, "c"),
        ({"app": "a"}, {}, {"tracingServiceName": "CANONICAL_NAME_AND_NAMESPACE"}, "a.demo"),
        ({"app": "a"}, {}, {"tracingServiceName": "APP_LABEL_AND_NAMESPACE"}, "a.demo"),
        ({}, {}, {"tracingServiceName": "CANONICAL_NAME_ONLY"}, "istio-proxy"),
    ],
)
def test_cluster(labels: Mapping[str, str], env: Mapping[str, str | None], proxy: Mapping[str, Any], want: str) -> None:
    c = make(labels=labels, env=env, proxy=proxy)
    assert cluster(c, build(c, [].append)) == want


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=6), st.text(max_size=12)), st.binary(max_size=8))
def test_any_environment_can_be_sent(env: dict[str, str], noise: bytes) -> None:
    env = {f"ISTIO_META_{k}": v for k, v in env.items()}
    env["ISTIO_META_NOISE"] = noise.decode("utf-8", "surrogateescape")
    # PROXY_CONFIG may be in the same state: it is shown as metadata, too.
    found = metadata(env=env, proxy={"proxyMetadata": {"N": "ok"}})
    json.dumps(found, ensure_ascii=False).encode()
