"""The gRPC bootstrap as data."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.envoy import proxyless
from tests.fakes.configs import make


def render(**kwargs: Any) -> dict[str, Any]:
    return proxyless.render(make(**kwargs), lambda _: None)


def test_the_file() -> None:
    env = {"ISTIO_META_WORKLOAD_NAME": "web", "ISTIO_META_OTHER": "x", "ISTIO_METAJSON_X": '{"app": "y"}'}
    found = render(env=env, labels={"topology.istio.io/locality": "r.z"})
    assert found["xds_servers"] == [
        {
            "server_uri": "unix:///etc/istio/proxy/XDS",
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }
    ]
    assert found["server_listener_resource_name_template"] == "xds.istio.io/grpc/lds/inbound/%s"
    assert "certificate_providers" not in found
    node = found["node"]
    assert node["id"] == "sidecar~10.77.0.2~app-1.demo~demo.svc.cluster.local"
    assert (node["locality"], node["UserAgentVersionType"]) == ({"region": "r", "zone": "z"}, None)
    meta = node["metadata"]
    assert (meta["GENERATOR"], meta["WORKLOAD_NAME"], meta["CLUSTER_ID"]) == ("grpc", "web", "Kubernetes")
    assert not {"OTHER", "app"} & meta.keys()
    assert list(meta) == sorted(meta)


@pytest.mark.parametrize("path", ["/abs/dir", "/abs//dir/"])
def test_an_absolute_socket(path: str) -> None:
    assert render(proxy={"configPath": path})["xds_servers"][0]["server_uri"] == "unix:///abs/dir/XDS"


def test_certificates() -> None:
    found = render(env={"OUTPUT_CERTS": "./out/"})
    assert found["certificate_providers"]["default"] == {
        "plugin_name": "file_watcher",
        "config": {
            "certificate_file": "out/cert-chain.pem",
            "private_key_file": "out/key.pem",
            "ca_certificate_file": "out/root-cert.pem",
            "refresh_interval": "900s",
        },
    }
    names = [f"out/{name}.pem" for name in ("cert-chain", "key", "root-cert")]
    assert proxyless.certificate_files(json.dumps(found)) == names


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("{}", []),
        ('{"certificate_providers": {"default": {"plugin_name": "other", "config": {}}}}', []),
    ],
)
def test_files_that_need_no_certificates(text: str, files: list[str]) -> None:
    assert proxyless.certificate_files(text) == files


@given(
    st.text(max_size=20)
    | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_a_broken_file_is_a_value_error(text: str) -> None:
    try:
        assert isinstance(proxyless.certificate_files(text), list)
    except ValueError:
        return
