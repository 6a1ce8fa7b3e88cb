"""A small real metadata server of Google Compute Engine, and the tokens that it hands out."""

import base64
import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def jwt(seconds: float, audience: str = "td") -> str:
    """A token that expires in `seconds`; its signature is worth nothing."""
    claims = json.dumps({"exp": time.time() + seconds, "aud": audience}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"


class Metadata:
    """A context manager. `answer` is (status, body); `asked` keeps what was asked."""

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

    def __enter__(self) -> "Metadata":
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
