"""The list of settings: complete, with sources, without secrets."""

import json
from typing import Any

import pytest

from agent.cli.flags import PROXY
from agent.settings.proxyschema import FIELDS
from agent.settings.show import REDACTED, Setting, settings
from tests.fakes.configs import make


def rows(*args: str, **kwargs: Any) -> dict[str, Setting]:
    return {row.name: row for row in settings(make(*args, **kwargs))}


def test_every_flag_and_every_field_is_there() -> None:
    found = rows()
    assert {f"--{flag.name}" for flag in PROXY.flags} <= found.keys()
    assert set(FIELDS) <= found.keys()
    assert {"SECRET_TTL", "INSTANCE_IP", "ENVOY_RESTARTS", "ISTIO_DELTA_XDS", "CLOUD_PLATFORM"} <= found.keys()


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("--domain", "x", "flag"),
        ("--concurrency", 0, "default"),
        ("SECRET_TTL", "3600s", "environment"),
        ("SECRET_GRACE_PERIOD_RATIO", 0.5, "default (the environment's value is unusable)"),
        ("POD_NAME", "app-1", "environment"),
        ("DNS_FORWARD_TIMEOUT", "5s", "default"),
        ("ISTIO_META_ANY", "thing", "environment"),
        ("JWT_POLICY", "first-party-jwt", "environment (without effect)"),
        ("PROXY_CONFIG", "(shown field by field)", "environment"),
        ("configPath", "./etc/istio/proxy", "default"),
        ("meshId", "m", "defaultConfig of ./etc/istio/config/mesh"),
        ("drainDuration", "7s", "PROXY_CONFIG"),
        ("terminationDrainDuration", "9s", "annotation proxy.istio.io/config"),
        ("discoveryAddress", "d:1", "annotation sidecar.istio.io/discoveryAddress"),
        ("statusPort", 15555, "annotation status.sidecar.istio.io/port"),
        ("concurrency", 3, "environment ISTIO_CPU_LIMIT"),
        ("proxyMetadata.MESH", "1", "defaultConfig of ./etc/istio/config/mesh"),
        ("proxyMetadata.BOTH", "new", "PROXY_CONFIG"),
        ("tracing", None, "default"),
        ("id", "sidecar~10.77.0.2~app-1.demo~x", "computed"),
    ],
)
def test_values_and_sources(name: str, value: object, source: str) -> None:
    found = rows(
        "sidecar",
        "--domain=x",
        env={
            "SECRET_TTL": "1h",
            "SECRET_GRACE_PERIOD_RATIO": "half",
            "ISTIO_META_ANY": "thing",
            "ISTIO_CPU_LIMIT": "3",
            "JWT_POLICY": "first-party-jwt",
        },
        files={
            "./etc/istio/config/mesh": b"defaultConfig: {meshId: m, drainDuration: 1s,"
            b" proxyMetadata: {MESH: '1', BOTH: old}}"
        },
        proxy={"drain_duration": "7s", "terminationDrainDuration": "8s", "proxyMetadata": {"BOTH": "new"}},
        annotations={
            "proxy.istio.io/config": "terminationDrainDuration: 9s",
            "sidecar.istio.io/discoveryAddress": "d:1",
            "status.sidecar.istio.io/port": "15555",
        },
    )
    assert (found[name].value, found[name].source) == (value, source)


def test_the_flag_beats_the_limit() -> None:
    row = rows("sidecar", "--concurrency=2", env={"ISTIO_CPU_LIMIT": "3"})["concurrency"]
    assert (row.value, row.source) == (2, "flag --concurrency")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("credentials", ["", "user:sesame@", "user:ses/ame@"])
def test_the_proxy_is_shown_without_credentials(name: str, credentials: str) -> None:
    row = rows(env={name: f"http://{credentials}proxy:3128", "NO_PROXY": ".svc"})
    shown = "http://(redacted)@proxy:3128" if credentials else "http://proxy:3128"
    assert (row[name].value, row[name].source) == (shown, "environment")
    assert row["NO_PROXY"].value == ".svc"


def test_secrets_stay_secret() -> None:
    config = make(
        env={
            "XDS_HEADER_X": "hush-1",
            "CA_HEADER_AUTHORIZATION": "hush-2",
            "ISTIO_META_API_TOKEN": "hush-3",
            "ISTIO_METAJSON_A": '{"b": {"password": "hush-4"}, "c": 1}',
        },
        proxy={
            "tracing": {"lightstep": {"address": "l:1", "accessToken": "hush-5"}},
            "proxyMetadata": {"MY_SECRET": "hush-6", "PLAIN": "shown"},
        },
        annotations={
            "proxy.istio.io/config": '{"tracing": {"lightstep": {"address": "l:1", "accessToken": "hush-7"}}}'
        },
    )
    found = settings(config)
    assert "hush" not in json.dumps([[row.name, row.value] for row in found])
    assert {row.name: row.value for row in found}["proxyMetadata.PLAIN"] == "shown"
    assert sum(row.value == REDACTED for row in found) == 4


PROBE = {"httpHeaders": [{"name": "Authorization", "value": "hush-1"}, {"name": "X-Plain", "value": "hush-2"}]}
HUSHED: dict[str, Any] = {
    "env": {
        "ISTIO_KUBE_APP_PROBERS": json.dumps(
            {"/app-health/app/livez": {"httpGet": {"port": 80, "path": "/", **PROBE}}}
        ),
        "ISTIO_META_LICENSE_KEY": "hush-3",
        "ISTIO_META_TEXT": "say Bearer hush-4",
        "ISTIO_BOOTSTRAP_OVERRIDE": "/override.json",
        "HTTPS_PROXY": "http://user:hush-9@proxy:3128",
        "XDS_HEADER_X": "hush-10",
    },
    "proxy": {
        "readinessProbe": {"httpGet": {"port": 80, **PROBE}},
        "proxyMetadata": {"MY_KEY": "hush-5", "ISTIO_META_TLS_CLIENT_KEY": "/etc/certs/key.pem"},
    },
    "annotations": {"proxy.istio.io/config": "tracing: {lightstep: {address: l:1, accessToken: hush-6}}"},
    "files": {
        "/override.json": b'{"node": {"metadata": {"X": "hush-7"}}}',
        "/custom.json": b'{"admin": {}, "x": "hush-8"}',
    },
}


def test_headers_keys_and_texts_stay_secret() -> None:
    found = settings(make(**HUSHED))
    assert "hush" not in json.dumps([[row.name, row.value] for row in found])
    values = {row.name: row.value for row in found}
    assert values["proxyMetadata.ISTIO_META_TLS_CLIENT_KEY"] == "/etc/certs/key.pem"
    headers = values["readinessProbe"]["httpGet"]["httpHeaders"]
    assert [entry["name"] for entry in headers] == ["Authorization", "X-Plain"]
    assert values["PKCS8_KEY"] is False
    assert values["annotations"] == {"proxy.istio.io/config": "(shown field by field)"}


@pytest.mark.parametrize("custom", ["", "/custom.json"])
def test_the_configuration_can_be_printed_without_telling_secrets(custom: str) -> None:
    hushed = {**HUSHED, "proxy": {**HUSHED["proxy"], **({"customConfigFile": custom} if custom else {})}}
    config = make(**hushed)
    assert config.status.app_probes["/app-health/app/livez"].headers
    assert config.health is not None
    assert config.health.headers
    assert config.bootstrap.override or custom
    assert "hush" not in repr(config)


def test_rows_are_json() -> None:
    json.dumps([row.value for row in settings(make(env={"POD_NAME": "\udcff"}))])
