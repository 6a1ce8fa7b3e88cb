import pytest

from agent.config import HealthConfig
from agent.errors import ConfigError
from agent.settings.health import health

IPS = ("10.0.0.7", "fd00::7")


def test_off_without_a_probe():
    assert health(None, IPS) is None
    assert health({"periodSeconds": 3}, IPS) is None


def test_defaults():
    assert health({"httpGet": {"port": 80}}, IPS) == HealthConfig("http", "10.0.0.7", 80)
    assert health({"tcpSocket": {"port": 80}}, IPS, localhost=True) == HealthConfig("tcp", "localhost", 80)
    assert health({"grpc": {"port": 80}}, ()) == HealthConfig("grpc", "localhost", 80)
    zeros = {"timeoutSeconds": 0, "periodSeconds": 0, "successThreshold": 0, "failureThreshold": -1}
    assert health({"tcpSocket": {"port": 80}, **zeros}, IPS) == HealthConfig("tcp", "10.0.0.7", 80)


def test_everything():
    probe = {
        "initialDelaySeconds": 1,
        "timeoutSeconds": 2,
        "periodSeconds": 3,
        "successThreshold": 4,
        "failureThreshold": 5,
        "httpGet": {
            "host": "app",
            "port": 443,
            "path": "up?x=1",
            "scheme": "HTTPS",
            "httpHeaders": [{"name": "A", "value": "b"}, {"value": "without a name"}],
        },
    }
    assert health(probe, IPS) == HealthConfig(
        "http", "app", 443, "/up?x=1", "https", (("A", "b"),), initial_delay=1, timeout=2, period=3,
        success_threshold=4, failure_threshold=5,
    )  # fmt: skip
    assert health({"exec": {"command": ["a", "b"]}}, IPS).command == ("a", "b")
    assert health({"grpc": {"port": 1, "service": "s"}}, IPS).service == "s"


@pytest.mark.parametrize(
    "probe",
    [
        {"httpGet": {}},
        {"httpGet": {"port": 70000}},
        {"httpGet": {"port": 80, "scheme": "ftp"}},
        {"exec": {}},
        {"exec": {"command": [""]}},
        {"grpc": {"port": 0}},
    ],
)
def test_what_cannot_work_stops_the_start(probe):
    with pytest.raises(ConfigError, match=r"^readinessProbe\."):
        health(probe, IPS)
