"""The status port (15020): readiness, metrics, and the two calls that end or drain the proxy."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from agent import logs
from agent.config import StatusConfig
from agent.errors import AttemptError
from agent.model import Readiness
from agent.status import http, metrics, process
from agent.status.bind import bind
from agent.status.http import Request, Response
from agent.status.metrics import Registry
from agent.status.ready import History, observe, verdict
from agent.text import one_line

__all__ = ["StatusServer", "bind"]

log = logs.scope("default")

MAX_CONNECTIONS = 2048  # beyond it the newest is closed at once: probes must not be starved of file descriptors
ACCEPT_PAUSE = 0.1  # seconds, when the process is out of file descriptors
CHECK_TIMEOUT = 5.0  # seconds for one gate

Check = Callable[[], Awaitable[Readiness]]
# (query, request headers to pass on, seconds or None) → Envoy's own metrics page; AttemptError if there is none
Scrape = Callable[[str, Sequence[tuple[str, str]], float | None], Awaitable[bytes]]


class StatusServer:
    """Serves `sock` (from `bind`). `checks` are the gates of readiness, in the order in which they are named.

    `on_drain` returns when Envoy was told to drain; `on_quit` asks the process to end; `scrape` fetches Envoy's
    metrics; `names` gives the name table as JSON, None without one; `routes` are further paths.
    """

    def __init__(
        self,
        config: StatusConfig,
        sock: socket.socket,
        checks: Sequence[Check],
        on_drain: Callable[[], Awaitable[None]],
        on_quit: Callable[[], None],
        registry: Registry | None = None,
        scrape: Scrape | None = None,
        names: Callable[[], str | None] = lambda: None,
        routes: Mapping[str, http.Handler] | None = None,
    ) -> None:
        self._config, self._sock, self._checks = config, sock, checks
        self._on_drain, self._on_quit, self._scrape = on_drain, on_quit, scrape
        self._names = names
        self._routes = routes or {}
        self._history = History()
        self._open = 0
        self.registry = registry or Registry()
        process.register(self.registry)
        self._scrapes = self.registry.counter("scrapes_total", "Requests for the metrics page.")
        self._failures = self.registry.counter(
            "scrape_failures_total", "Scrapes of Envoy that failed, so that its part of the metrics page was missing."
        )
        self._startup = self.registry.gauge(
            "startup_duration_seconds", "Seconds from the start of the process to the first time it was ready."
        )

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    async def start(self) -> None:
        """Nothing to bind: the socket came bound, so that probes of the first moment wait instead of being refused."""

    async def run(self) -> None:
        """Serve until cancelled; then every connection and the port are closed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        connection, _ = await loop.sock_accept(self._sock)
                    except OSError as error:
                        log.warning("The status port cannot accept connections: %s", error.strerror)
                        await asyncio.sleep(ACCEPT_PAUSE)
                        continue
                    if self._open >= MAX_CONNECTIONS:
                        connection.close()
                        continue
                    self._open += 1
                    group.create_task(self._converse(connection), name="status-connection")
        finally:
            self._sock.close()

    async def _converse(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await http.serve(connection, self.answer)
        except Exception as error:
            # One request that went wrong is no reason to end a proxy that works.
            log.error("The status port dropped a request: %s: %s", type(error).__name__, error, exc_info=True)
        finally:
            self._open -= 1

    async def answer(self, request: Request) -> Response:
        """The answer to one request."""
        match request.path:
            case "/healthz/ready":
                return await self._ready()
            case "/metrics" | "/stats/prometheus":
                if self._config.local_metrics_only and not request.local:
                    return Response(403, b"Only requests from localhost are allowed\n")
                return await self._metrics(request)
            case "/debug/ndsz":
                return self._name_table(request)
            case "/quitquitquit" | "/drain":
                return await self._control(request)
            case path if path in self._routes:
                return await self._routes[path](request)
            case _:
                return Response(404, b"404 page not found\n")

    # ---------------------------------------------------------------------------------------------- readiness

    async def readiness(self) -> Readiness:
        """The verdict of every gate, asked in order until one says no."""
        answers = []
        for check in self._checks:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    answers.append(await check())
            except TimeoutError:
                answers.append(Readiness(False, f"a readiness check did not end within {CHECK_TIMEOUT:g} s"))
            if not answers[-1].ready:
                break
        return verdict(answers)

    async def _ready(self) -> Response:
        now = await self.readiness()
        since_start = process.age()
        first = self._history.first
        self._history, news = observe(self._history, now, since_start)
        if first is None and self._history.first is not None:
            self._startup.set(round(self._history.first, 6))
        if news:
            if now.ready and now.reason:
                log.warning("Envoy proxy is ready, but %s", now.reason)
            elif now.ready:
                log.info("Envoy proxy is ready")
            else:
                log.log(logging.WARNING, "Envoy proxy is NOT ready: %s", now.reason)
        # A body on success would be new to clients; the reason of a failure costs nobody anything.
        return Response(200) if now.ready else Response(503, f"{one_line(now.reason)}\n".encode())

    # ---------------------------------------------------------------------------------------------- metrics

    async def _metrics(self, request: Request) -> Response:
        self._scrapes.add()
        body = self.registry.render().encode()
        if self._scrape is not None and self._config.merge_envoy_stats:
            names = ("user-agent", "x-prometheus-scrape-timeout-seconds")
            headers = [(name, request.headers[name]) for name in names if name in request.headers]
            headers.append(("accept", "text/plain;version=0.0.4"))
            try:
                body += await self._scrape(request.query, headers, _seconds(request.headers.get(names[1])))
            except AttemptError as error:
                self._failures.add(type="envoy")
                log.warning("Envoy's metrics are missing from this scrape: %s", error)
        return Response(200, body, metrics.CONTENT_TYPE)

    def _name_table(self, request: Request) -> Response:
        if not request.local:
            return Response(403, b"Only requests from localhost are allowed\n")
        table = self._names()
        return Response(404 if table is None else 200, (table or "{}").encode(), "application/json")

    # ---------------------------------------------------------------------------------------------- control

    async def _control(self, request: Request) -> Response:
        if not request.local:
            return Response(403, b"Only requests from localhost are allowed\n")
        if request.method != "POST":
            return Response(405, b"Method not allowed\n", headers={"allow": "POST"})
        if request.path == "/quitquitquit":
            # The answer first: a job's wrapper waits for it, and the process may be gone right after.
            return Response(200, b"OK", after=self._on_quit)
        await self._on_drain()
        return Response(200, b"OK")


def local_page(make: Callable[[], str]) -> http.Handler:
    """A route that gives JSON to callers on this machine and nothing to others."""

    async def answer(request: Request) -> Response:
        if not request.local:
            return Response(403, b"Only requests from localhost are allowed\n")
        return Response(200, make().encode(), "application/json")

    return answer


def _seconds(text: str | None) -> float | None:
    """The scraper's own time limit; None if it set none or nonsense."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        log.warning("The scraper's timeout header is not a number; it is ignored")
        return None
    return seconds if 0 < seconds < 3600 else None
