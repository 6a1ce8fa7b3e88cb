"""While a pod drains its application works on: names resolve and calls go out through the real Envoy, to the end."""

import http.client
import os
import signal
from collections.abc import Iterator

import pytest

from tests.fakes.cluster import VIP, Cluster
from tests.fakes.container import Container, proxy
from tests.fakes.envoy import alive, wait_for
from tests.fakes.pod import Pod

pytestmark = [pytest.mark.root, pytest.mark.envoy]

NAME = "b.demo.svc.cluster.local"
INIT = Container(
    ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*",
     "-d", "15090,15021,15020"],
    {"ISTIO_META_DNS_CAPTURE": "true"}, user=0, group=0, capabilities=("net_admin", "net_raw"), read_only=False,
)  # fmt: skip


@pytest.fixture
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    with Cluster(tmp_path_factory.mktemp("d")) as cluster:
        config = '{"terminationDrainDuration": "2s"}'
        made = Pod(cluster, proxy("sidecar", ISTIO_META_DNS_CAPTURE="true", PROXY_CONFIG=config))
        made.init(INIT)
        made.start()
        made.wait_ready()
        yield made


def kept(pod: Pod) -> http.client.HTTPConnection:
    """A connection to b that was there before the drain began."""
    connection = http.client.HTTPConnection(VIP, timeout=5)
    pod.cluster.pod.call(connection.connect)
    return connection


def call(connection: http.client.HTTPConnection) -> tuple[int, bytes, str | None]:
    """Status, body and the header that tells a client to go elsewhere."""
    connection.request("GET", "/")
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader("connection")


def test_names_and_outgoing_calls_work_to_the_end_of_a_drain(pod: Pod) -> None:
    old = kept(pod)
    assert call(old) == (200, b"ok\n", None)
    os.kill(pod.pid, signal.SIGTERM)
    wait_for(lambda: "Envoy drains its listeners" in pod.log.read_text())
    assert pod.http(15020, "/healthz/ready") == (503, "server is terminated: SIGTERM\n")
    envoy, rounds, refused = pod.envoy_pid(), 0, ""
    while pod.running and not refused:
        try:
            assert pod.cluster.resolve(NAME) == VIP
            assert call(old) == (200, b"ok\n", None)
            new = pod.http(80, "/", VIP)
            assert new[0] == 200 or not new[0], new  # never an error of Envoy's own
            refused = "" if new[0] else new[1]
            rounds += not refused
        except (OSError, http.client.HTTPException) as error:
            refused = repr(error)
    old.close()
    wait_for(lambda: not alive(envoy), 0.3)  # whatever was refused was so because Envoy's end had come, not before it
    assert rounds > 3, refused
    status, out, err = pod.end()
    assert (status, err) == (0, "")
    assert out.index("Envoy drains its listeners") < out.index("Envoy was ended as asked")


def test_a_native_sidecar_works_on_after_the_hook(pod: Pod) -> None:
    """The hook drains for good, the application stops when it likes, then comes SIGTERM."""
    old = kept(pod)
    assert pod.exec("pilot-agent", "request", "--debug-port=15020", "POST", "drain") == (0, "OK\n")
    for _ in range(10):
        assert pod.cluster.resolve(NAME) == VIP
        assert pod.http(80, "/", VIP) == (200, "ok\n")
        assert call(old) == (200, b"ok\n", None)
    old.close()
    status, out, err = pod.terminate()
    assert (status, err) == (0, "")
    assert out.count("Envoy drains its listeners") == 1
