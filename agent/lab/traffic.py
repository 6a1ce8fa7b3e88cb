"""A steady stream of requests, one on a kept connection and one on a new connection in turn, and its log.

Run as `python -m agent.lab.traffic URL INTERVAL`; one JSON line a request on standard output until SIGTERM.
Without INTERVAL: a single request, and its body in the line as well.
"""

import http.client
import json
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

KEPT, NEW = "kept", "new"
TIMEOUT = 5.0  # seconds a request of the stream may take before it counts as lost
PATIENCE = 30.0  # the same for a single request


@dataclass(frozen=True, slots=True)
class Request:
    """One request as its client saw it. `start` is epoch seconds, `ms` its duration, `status` 0 without an answer."""

    start: float
    mode: str
    status: int
    ms: float
    error: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # of the response, names in lower case
    body: str = ""  # single requests only

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def end(self) -> float:
        return self.start + self.ms / 1000


def parse(lines: Iterable[str]) -> list[Request]:
    """Requests from log lines; lines that are not complete records (a cut last one) are left out."""
    requests = []
    for line in lines:
        try:
            record = json.loads(line)
            requests.append(
                Request(
                    float(record["start"]),
                    str(record["mode"]),
                    int(record["status"]),
                    float(record["ms"]),
                    str(record.get("error", "")),
                    {str(k): str(v) for k, v in dict(record.get("headers", {})).items()},
                    str(record.get("body", "")),
                )
            )
        except (ValueError, TypeError, KeyError):
            continue
    return requests


class Log:
    """Follows the log file of a running stream."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._seen: list[Request] = []

    def requests(self, since: float = 0.0) -> list[Request]:
        """All requests so far that began at `since` (epoch seconds) or later, in the order of their ends."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._seen += parse(whole.decode(errors="replace").splitlines())
        return [r for r in self._seen if r.start >= since]


class Client:
    """Sends the requests of one mode."""

    def __init__(self, url: str, mode: str, limit: float = TIMEOUT) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._mode, self._limit = mode, limit
        self._connection: http.client.HTTPConnection | None = None

    def once(self) -> Request:
        """One request, never retried; a failure is part of the answer."""
        start, clock = time.time(), time.monotonic()
        status, error, body, headers = 0, "", "", {}
        try:
            if self._connection is None:
                # The name is looked up for every connection, as an application would.
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self._limit)
            sent = {"user-agent": "lab-traffic"} | ({"connection": "close"} if self._mode == NEW else {})
            self._connection.request("GET", self._target, headers=sent)
            response = self._connection.getresponse()
            body = response.read().decode(errors="replace")
            status, headers = response.status, {k.lower(): v for k, v in response.getheaders()}
            if status != 200:
                error = body[:200].strip() or response.reason
        except (OSError, http.client.HTTPException) as failure:
            error = f"{type(failure).__name__}: {failure}"
        took = (time.monotonic() - clock) * 1000
        if self._mode == NEW or status == 0:
            self.close()
        return Request(start, self._mode, status, round(took, 3), error, headers, body)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def line(request: Request) -> str:
    """The log line of a request, without its empty parts."""
    return json.dumps({k: v for k, v in asdict(request).items() if v or k == "status"}, separators=(",", ":"))


def stream(url: str, mode: str, interval: float, stop: threading.Event, lock: threading.Lock) -> None:
    client = Client(url, mode)
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        request = client.once()
        headers = {k: v for k, v in request.headers.items() if k.startswith("x-") or k == "server"}
        with lock:
            print(line(replace(request, headers=headers, body="")), flush=True)
        # A slow answer delays the next request; it does not cause a burst afterwards.
        due = max(due + interval, time.monotonic())
    client.close()


def main(argv: list[str]) -> int:
    url, *rest = argv
    if not rest:
        print(line(Client(url, NEW, PATIENCE).once()), flush=True)
        return 0
    stop, lock = threading.Event(), threading.Lock()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threads = [threading.Thread(target=stream, args=(url, mode, float(rest[0]), stop, lock)) for mode in (KEPT, NEW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
