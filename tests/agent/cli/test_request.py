"""Exit status and output of `request`; the ports are fixed, so every test has a network namespace of its own."""

import subprocess
import sys
import textwrap

import pytest

from agent.cli.request import run
from agent.errors import ConfigError


@pytest.mark.parametrize("argv", [[], ["GET"], ["GET", "x", "y", "z"], ["G T", "x"], ["--nosuch", "GET", "x"]])
def test_usage_errors(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        run(argv, {})


@pytest.mark.parametrize("port", ["15012", "80", "0", "-1", "15090"])
def test_other_ports_are_refused(port: str) -> None:
    with pytest.raises(ConfigError, match="15000, 15004, 15020, 15021"):
        run(["--debug-port", port, "GET", "x"], {})


SERVER = """
import http.server, subprocess, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = int(self.path.rpartition("/")[2] or 200)
        self.send_response(status); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"hi")
    do_POST = do_GET
    def log_message(self, *a): pass
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 15000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for path in sys.argv[1:]:
    out = subprocess.run([sys.executable, "-m", "agent", "request", "GET", path], capture_output=True, text=True)
    print(out.returncode, repr(out.stdout), "Error: " in out.stderr, flush=True)
"""


@pytest.mark.root
def test_status_decides() -> None:
    paths = ["/200", "399", "404", "400", "503"]
    out = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", textwrap.dedent(SERVER), *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    good, bad = r"0 'hi\n' False", "255 '' True"
    assert out.stdout.splitlines() == [good, good, good, bad, bad]
