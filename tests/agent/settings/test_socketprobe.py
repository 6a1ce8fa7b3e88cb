"""Servers that speak HTTP/2, something else, or nothing."""

import socket
import threading
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from agent.settings.socketprobe import speaks_http2


def test_a_grpc_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_insecure_port("unix:s")
    server.start()
    try:
        assert speaks_http2("s", 5)
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        listener.listen()
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert not speaks_http2("s", 0.3)
        done.set()
        thread.join()


def test_nobody(tmp_path: Path) -> None:
    assert not speaks_http2(str(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    assert not speaks_http2(str(tmp_path / "file"))
    assert not speaks_http2("x" * 200)
