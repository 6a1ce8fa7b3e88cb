"""The machine's token against a real HTTP server that plays the metadata server."""

import asyncio
import base64
import json
import socketserver
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AttemptError
from agent.identity.fetcher import MARGIN, MachineToken


def jwt(seconds: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + seconds}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


class Metadata:
    """`answer` is (status, body); `asked` keeps what was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, str] = (200, jwt(3600))
        self.asked: list[tuple[str, str]] = []
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                world.asked.append((self.path, self.headers.get("Metadata-Flavor", "")))
                status, body = world.answer
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server: socketserver.BaseServer = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    world = Metadata()
    thread = threading.Thread(target=world.server.serve_forever, args=(0.01,))
    thread.start()
    yield world
    world.server.shutdown()
    thread.join()
    world.server.server_close()


def refresh(fetcher: MachineToken) -> None:
    asyncio.run(fetcher.refresh())


def test_a_token_is_fetched_written_and_kept_until_it_is_about_to_expire(metadata: Metadata, tmp_path: Path) -> None:
    path = tmp_path / "tokens" / "istio-token"
    fetcher = MachineToken(metadata.host, "my domain/x", str(path))
    refresh(fetcher)
    assert path.read_text() == metadata.answer[1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    asked = "/computeMetadata/v1/instance/service-accounts/default/identity?audience=my%20domain%2Fx&format=full"
    assert metadata.asked == [(asked, "Google")]
    refresh(fetcher)
    assert len(metadata.asked) == 1
    for stale in (jwt(MARGIN - 5), jwt(-5), "opaque", ""):
        path.write_text(stale)
        refresh(fetcher)
        assert path.read_text() == metadata.answer[1], stale
    assert len(metadata.asked) == 5
    assert [p.name for p in path.parent.iterdir()] == ["istio-token"]


@pytest.mark.parametrize("answer", [(404, "x"), (200, ""), (500, "a.b.c"), (200, "x" * 100_000)])
def test_no_token_is_one_sentence_and_the_old_file_stays(
    metadata: Metadata, tmp_path: Path, answer: tuple[int, str]
) -> None:
    metadata.answer = answer
    (tmp_path / "token").write_text(old := jwt(60))
    with pytest.raises(AttemptError, match=f"metadata server {metadata.host} gives no token"):
        refresh(MachineToken(metadata.host, "td", str(tmp_path / "token")))
    assert (tmp_path / "token").read_text() == old


def test_nobody_there_and_nowhere_to_write(metadata: Metadata, tmp_path: Path) -> None:
    with pytest.raises(AttemptError, match="gives no token"):
        refresh(MachineToken("127.0.0.1:1", "td", str(tmp_path / "token")))
    (tmp_path / "file").write_text("")
    with pytest.raises(AttemptError, match="cannot write"):
        refresh(MachineToken(metadata.host, "td", str(tmp_path / "file" / "token")))
