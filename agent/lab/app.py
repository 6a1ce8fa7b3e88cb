"""The application in a lab pod: answers every request with what it saw, as JSON; `/slow?seconds=N` takes its time.

Run as `python -m agent.lab.app NAME PORT`; prints one line a request.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: two would meet Nagle's algorithm and a delayed ACK, 40 ms
    app_name = ""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        waited = 0.0
        if url.path == "/slow":
            waited = min(float(parse_qs(url.query).get("seconds", ["1"])[0]), 60.0)
            self.log_message("%s", f"slow request for {waited:g} s begins")
            time.sleep(waited)
        seen = {
            "app": self.app_name,
            "path": self.path,
            "waited": waited,
            "peer": self.client_address[0],
            "headers": {k.lower(): v for k, v in self.headers.items()},
        }
        body = json.dumps(seen).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        print(f"{time.time():.3f} {format % args}", flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        # The base class looks its own name up in the DNS first, which in a pod is not there yet.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]


def main(argv: list[str]) -> int:
    name, port = argv
    handler = type("NamedHandler", (Handler,), {"app_name": name})
    with Server(("0.0.0.0", int(port)), handler) as server:
        print(f"{time.time():.3f} {name} listens on {port}", flush=True)
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
