"""Every problem at once, without starting anything."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.cli.flags import PROXY
from agent.settings.check import Report, check
from agent.settings.ports import Port

ROOT = "var/run/secrets/istio/root-cert.pem"


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / ROOT
    root.parent.mkdir(parents=True)
    root.write_text("root")
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\n")
    envoy.chmod(0o755)
    return tmp_path


def verdict(*args: str, proxy: Mapping[str, object] | None = None, **environ: str) -> Report:
    config = {"binaryPath": "./envoy", **(proxy or {})}
    env = {"CLOUD_PLATFORM": "none", "INSTANCE_IP": "10.0.0.1", "PROXY_CONFIG": json.dumps(config), **environ}
    return check(PROXY.parse(args), env, port_refusal)


def port_refusal(port: Port) -> str:
    """On the machine of these tests any port may be taken by somebody."""
    return "somebody has it" if port.number == 15999 else ""


def test_a_usable_configuration_touches_nothing(world: Path) -> None:
    before = sorted(world.rglob("*"))
    assert verdict() == Report((), ())
    assert sorted(world.rglob("*")) == before


def test_every_problem_is_named_once() -> None:
    report = verdict(
        "gateway",
        "--log_output_level=loud",
        proxy={"drainDuration": "0s", "statusPort": 70000, "discoveryAddress": "nowhere", "binaryPath": ""},
        ISTIO_KUBE_APP_PROBERS="[",
        REDIRECT_GUARD="maybe",
        ECC_SIGNATURE_ALGORITHM="RSA",
        ISTIO_BOOTSTRAP="./nosuch",
    )
    expected = [
        "--log_output_level",
        "invalid proxy Type",
        "binaryPath",
        "drainDuration",
        "discoveryAddress",
        "statusPort",
        "REDIRECT_GUARD",
        "ECC_SIGNATURE_ALGORITHM",
        "./nosuch",
    ]
    text = "\n".join(report.problems)
    assert all(word in text for word in expected)
    assert len(report.problems) >= len(expected)


@pytest.mark.parametrize(
    ("proxy", "environ", "problem"),
    [
        ({"binaryPath": "./none"}, {}, "./none does not exist"),
        ({"binaryPath": f"./{ROOT}"}, {}, "is not executable"),
        ({"customConfigFile": "none.json"}, {}, "customConfigFile none.json cannot be read"),
        ({"configPath": "./envoy/below"}, {}, "configPath ./envoy/below is not writable"),
        ({}, {"ISTIO_META_DNS_CAPTURE": "maybe"}, "ISTIO_META_DNS_CAPTURE"),
        ({}, {"ISTIO_META_POD_PORTS": "{"}, "ISTIO_META_POD_PORTS"),
        ({}, {"WORKLOAD_RSA_KEY_SIZE": "1024"}, "WORKLOAD_RSA_KEY_SIZE"),
        ({}, {"XDS_ROOT_CA": "./none"}, "XDS_ROOT_CA"),
        ({}, {"PROV_CERT": "./none"}, "PROV_CERT"),
        ({}, {"FILE_MOUNTED_CERTS": "true", "PROV_CERT": "x"}, "exclude each other"),
        ({}, {"PROXY_CONFIG": "{["}, "PROXY_CONFIG"),
        ({"statusPort": 15999}, {}, "the status port (statusPort) cannot be tcp 15999: somebody has it"),
        ({}, {"ENVOY_STATUS_PORT": "15999"}, "Envoy's listener 0.0.0.0_15999 cannot be tcp 15999: somebody has it"),
        ({"statusPort": 15021}, {}, "are both 15021"),
        (
            {},
            {"ISTIO_META_DNS_CAPTURE": "true", "DNS_PROXY_ADDR": "127.0.0.1:x"},
            "DNS_PROXY_ADDR: '127.0.0.1:x' has no usable port",
        ),
    ],
)
def test_one_problem(proxy: Mapping[str, object], environ: Mapping[str, str], problem: str) -> None:
    report = verdict(proxy=proxy, **environ)
    assert len(report.problems) == 1, report.problems
    assert problem in report.problems[0]


def test_warnings_are_no_problems() -> None:
    report = verdict("--nosuch", "value", proxy={"nosuch": 1, "tracing": {"other": 2}}, SECRET_TTL="soon")
    assert report.problems == ()
    assert sorted(report.warnings) == [
        "SECRET_TTL='soon' is not usable here; the default 86400.0 is used instead",
        "the unknown field nosuch in PROXY_CONFIG is ignored",
        "the unknown field tracing.other in PROXY_CONFIG is ignored",
        "the unknown flag --nosuch value is ignored",
    ]


def test_without_envoy_its_binary_does_not_matter() -> None:
    assert verdict(proxy={"binaryPath": "./none"}, DISABLE_ENVOY="true").problems == ()
