"""Envoy's command line, word for word."""

from agent.envoy.args import config_file, envoy_args, envoy_environ
from tests.fakes.configs import make

START = ["-c", "etc/istio/proxy/envoy-rev.json", "--drain-time-s", "45", "--drain-strategy", "immediate"]


def test_a_plain_pod() -> None:
    assert envoy_args(make()) == [
        *START,
        "--local-address-ip-version",
        "v4",
        "--file-flush-interval-msec",
        "1000",
        "--disable-hot-restart",
        "--allow-unknown-static-fields",
        "-l",
        "warning",
        "--skip-deprecated-logs",
    ]


def test_everything_in_istios_order() -> None:
    c = make(
        "--proxyLogLevel=info,misc:error",
        "--concurrency=8",
        env={
            "ENVOY_SKIP_DEPRECATED_LOGS": "true",
            "ISTIO_ENVOY_ENABLE_CORE_DUMP": "true",
            "ISTIO_BOOTSTRAP_OVERRIDE": "o",
            "INSTANCE_IP": "fd00::1",
        },
        files={"o": b"a: 1"},
        interfaces={"eth0": "fd00::1"},
        proxy={"fileFlushInterval": "2.5s", "fileFlushMinSizeKb": 32, "drainDuration": "7s"},
    )
    assert envoy_args(c) == [
        "-c",
        "etc/istio/proxy/envoy-rev.json",
        "--drain-time-s",
        "7",
        "--drain-strategy",
        "immediate",
        "--local-address-ip-version",
        "v6",
        "--file-flush-interval-msec",
        "2500",
        "--disable-hot-restart",
        "--allow-unknown-static-fields",
        "--file-flush-min-size-kb",
        "32",
        "-l",
        "info",
        "--component-log-level",
        "misc:error",
        "--skip-deprecated-logs",
        "--enable-core-dump",
        "--config-yaml",
        '{"a":1}',
        "--concurrency",
        "8",
    ]


def test_two_families_are_v4() -> None:
    args = envoy_args(make(env={"INSTANCE_IP": "fd00::1"}, interfaces={"eth0": "10.0.0.1"}))
    assert args[args.index("--local-address-ip-version") + 1] == "v4"


def test_a_custom_file_is_used_as_it_is() -> None:
    c = make(proxy={"customConfigFile": "mine.yaml"})
    assert config_file(c) == "mine.yaml"
    assert envoy_args(c)[:2] == ["-c", "mine.yaml"]


def test_the_environment_is_handed_on() -> None:
    c = make(env={"X": "\udcff" * 10})
    assert envoy_environ(c) == c.environ
    fips = envoy_environ(make(env={"COMPLIANCE_POLICY": "fips-140-3"}))
    assert fips["GRPC_SSL_CIPHER_SUITES"].split(":") == [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ]
