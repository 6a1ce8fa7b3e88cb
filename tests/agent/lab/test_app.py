"""The application of a pod, over a real socket on a free port of the loopback address."""

import json
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from agent.lab.app import Handler, Server
from agent.lab.traffic import NEW, Client


@pytest.fixture
def url() -> Iterator[str]:
    with Server(("127.0.0.1", 0), type("Named", (Handler,), {"app_name": "b"})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_it_answers_with_what_it_saw(url: str) -> None:
    request = urllib.request.Request(f"{url}/some?x=1", headers={"X-Asked": "yes"})
    with urllib.request.urlopen(request, timeout=10) as response:
        seen = json.load(response)
    assert (seen["app"], seen["path"], seen["peer"]) == ("b", "/some?x=1", "127.0.0.1")
    assert seen["headers"]["x-asked"] == "yes"


def test_it_takes_the_time_it_is_asked_to(url: str) -> None:
    answer = Client(f"{url}/slow?seconds=0.05", NEW).once()
    assert answer.ok
    assert answer.ms >= 50
    assert json.loads(answer.body)["waited"] == 0.05


def test_a_client_counts_what_it_cannot_reach(url: str) -> None:
    answer = Client("http://127.0.0.1:1/", NEW).once()
    assert (answer.status, answer.ok) == (0, False)
    assert "Refused" in answer.error


def test_a_kept_connection_is_kept(url: str) -> None:
    client = Client(url, "kept")
    assert client.once().ok
    connection = client._connection
    assert client.once().ok
    assert client._connection is connection is not None
    client.close()
