"""The real Envoy reads what we render, in every situation that we know."""

import json
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.config import AgentConfig
from agent.envoy.args import envoy_args
from agent.envoy.bootstrap import render
from tests.fakes.configs import make

ENVOY = Path(sysconfig.get_path("purelib")) / "envoy" / "_bin" / "envoy"
# Built into istio's Envoy only; the lab's and ours come without.
FOREIGN = {"metadata_discovery"}
TLS = {
    "mode": "MUTUAL",
    "caCertificates": "/ca",
    "clientCertificate": "/c",
    "privateKey": "/k",
    "subjectAltNames": ["a"],
}


def refused(config: AgentConfig, folder: Path) -> str:
    """What Envoy has against the bootstrap and the command line; "" if nothing."""
    bootstrap = render(config)
    extensions = bootstrap["bootstrap_extensions"]
    bootstrap["bootstrap_extensions"] = [e for e in extensions if e["name"] not in FOREIGN]
    path = folder / "bootstrap.json"
    path.write_text(json.dumps(bootstrap))
    args = envoy_args(config)
    args[args.index("-c") + 1] = str(path)
    done = subprocess.run([ENVOY, "--mode", "validate", *args], capture_output=True, text=True, timeout=60, cwd=folder)
    return "" if done.returncode == 0 else done.stdout + done.stderr


OVERRIDE = b"""
admin: {address: {socket_address: {address: $(HOST_IP), port_value: 15099}}}
stats_config: {stats_tags: [{tag_name: mine, regex: '(mine)'}]}
"""
OWN = b'{"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}}}'

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "platform": {"env": {"GCP_METADATA": "p|1|c|europe-west1-b"}},
    "override": {
        "env": {"ISTIO_BOOTSTRAP_OVERRIDE": "o", "HOST_IP": "127.0.0.3"},
        "files": {"o": OVERRIDE},
    },
    "sotw": {"env": {"ISTIO_DELTA_XDS": "false"}},
    "ipv6": {"env": {"INSTANCE_IP": "fd00::1"}, "interfaces": {"eth0": "fd00::1"}},
    "dual stack": {"env": {"ISTIO_DUAL_STACK": "true"}, "interfaces": {"a": "10.77.0.2", "b": "fd00::1"}},
    "discovery": {"env": {"PEER_METADATA_DISCOVERY": "true"}},
    "secure metrics": {"env": {"ENVOY_SECURE_METRICS_PORT": "15091", "ENVOY_SECURE_MERGED_METRICS_PORT": "15092"}},
    "proxy protocol": {"env": {"ENVOY_STATUS_PORT_ENABLE_PROXY_PROTOCOL": "true"}},
    "self discovery": {"env": {"ISTIO_META_ENABLE_SELF_DISCOVERY": "true"}, "args": ("--outlierLogPath=/dev/stdout",)},
    "external sds": {"sockets": ["./var/run/secrets/workload-spiffe-uds/socket"]},
    "fips": {"env": {"COMPLIANCE_POLICY": "fips-140-2"}},
    "json logs": {"args": ("--log_as_json", "--proxyLogLevel=info,upstream:debug", "--concurrency=1")},
    "zipkin": {"proxy": {"tracing": {"zipkin": {"address": "z.obs:9411"}, "tlsSettings": TLS}}},
    "datadog": {"proxy": {"tracing": {"datadog": {"address": "d.obs:8126"}}}},
    "services": {
        "proxy": {
            "statsdUdpAddress": "10.0.0.1:8125",
            "envoyMetricsService": {"address": "m.obs:1", "tlsSettings": {"mode": "ISTIO_MUTUAL"}},
            "envoyAccessLogService": {
                "address": "a.obs:1",
                "tlsSettings": TLS,
                "tcpKeepalive": {"probes": 3, "time": "10s"},
            },
        }
    },
    "stats": {
        "proxy": {
            "statsCompression": False,
            "extraStatTags": ["t"],
            "proxyStatsMatcher": {"inclusionRegexps": ["r.*"], "inclusionPrefixes": ["{pod_ip}"]},
            "fileFlushInterval": "2.5s",
            "fileFlushMinSizeKb": 32,
        },
        "annotations": {
            "sidecar.istio.io/statsFlushInterval": "1m",
            "sidecar.istio.io/statsEvictionInterval": "2m",
            "sidecar.istio.io/statsHistogramBuckets": '{"istio":[1,5,10.5]}',
        },
    },
    "limits": {
        "proxy": {
            "connectionSettings": {"globalDownstreamConnectionLimit": 5000},
            "runtimeValues": {"x": "true", "n": "1"},
        }
    },
    "odd metadata": {
        "env": {"ISTIO_META_X": 'a"\\\n\u00e9\udcff', "ISTIO_METAJSON_Y": '{"deep":{"n":[1.5,null,true]}}'}
    },
}


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_envoy_takes_it(case: Mapping[str, Any], tmp_path: Path) -> None:
    kwargs = dict(case)
    args = kwargs.pop("args", ())
    assert refused(make("sidecar", *args, **kwargs), tmp_path) == ""


@pytest.mark.envoy
def test_an_override_is_merged_by_envoy_and_its_faults_are_found(tmp_path: Path) -> None:
    env = {"ISTIO_BOOTSTRAP_OVERRIDE": "o"}
    assert "port_value" in refused(make(env=env, files={"o": OVERRIDE.replace(b"15099", b"700000")}), tmp_path)


@pytest.mark.envoy
def test_a_bootstrap_of_the_users_own_reaches_envoy_as_it_is(tmp_path: Path) -> None:
    own = json.loads(OWN)
    config = make(env={"ISTIO_BOOTSTRAP": "b"}, files={"b": OWN})
    assert render(config) == own
    (tmp_path / "own.json").write_bytes(OWN)
    for path in ("own.json", str(tmp_path / "own.json")):
        args = envoy_args(make(proxy={"customConfigFile": path}))
        assert args[:2] == ["-c", path]
        done = subprocess.run([ENVOY, "--mode", "validate", *args], capture_output=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
