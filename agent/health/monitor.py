"""Asks the workload whether it is well, again and again, and says when that changes (ProxyConfig.readinessProbe)."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping

from agent import logs
from agent.config import HealthConfig
from agent.events import Recorder
from agent.health import command, http
from agent.health.connect import connect
from agent.health.decision import Health, observe
from agent.model import Readiness

log = logs.scope("healthcheck")

# An Envoy that does not answer costs no more than this; its own limits are the admin calls'.
ENVOY_TIMEOUT = 5.0


class HealthMonitor:
    """`report` gets "" when the workload became healthy, else the reason. `environ` is for the exec probe's command.

    `envoy_ready` is asked first; None = no Envoy.
    """

    def __init__(
        self,
        config: HealthConfig,
        report: Callable[[str], None],
        envoy_ready: Callable[[], Awaitable[Readiness]] | None,
        environ: Mapping[str, str],
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._report = report
        self._envoy_ready = envoy_ready
        self._environ = environ
        self._recorder = recorder
        self.state = Health()

    async def start(self) -> None:
        """Nothing to bind."""

    async def run(self) -> None:
        """Probe on a fixed grid until cancelled; a probe that takes longer skips the times it missed."""
        config, clock = self._config, asyncio.get_running_loop().time
        await asyncio.sleep(config.initial_delay)
        due = clock()
        while True:
            self._take(await self.check())
            due += config.period
            if (late := clock() - due) > 0:
                due += (late // config.period + 1) * config.period
            await asyncio.sleep(due - clock())

    def _take(self, error: str) -> None:
        if error:
            log.debug("the workload's probe failed: %s", error)
        config = self._config
        self.state, news = observe(self.state, error, config.success_threshold, config.failure_threshold)
        if news is None:
            return
        if news.healthy:
            self._recorder.record("health", "healthy", "The workload is healthy.")
        else:
            sentence = f"The workload is not healthy: {news.error}"
            self._recorder.record("health", "unhealthy", sentence, level=logging.WARNING)
        self._report(news.error)

    async def check(self) -> str:
        """Why the workload is not healthy now, "" if it is. A command must not run while Envoy is not ready."""
        if self._envoy_ready is not None:
            try:
                async with asyncio.timeout(ENVOY_TIMEOUT):
                    envoy = await self._envoy_ready()
            except TimeoutError:
                envoy = Readiness(False, "it does not answer")
            if not envoy.ready:
                return f"Envoy is not ready: {envoy.reason}"
        config = self._config
        try:
            async with asyncio.timeout(config.timeout):
                return await self._probe()
        except TimeoutError:
            if config.kind == "exec":
                return f"command timeout exceeded: {' '.join(config.command)}"
            return f"{self._what()} did not answer within {config.timeout:g} s"
        except (OSError, ssl.SSLError) as e:
            # asyncio replaces the words of connect(2) by its own.
            reason = os.strerror(e.errno) if e.errno and not isinstance(e, ssl.SSLError | socket.gaierror) else str(e)
            return f"{self._what()} cannot be probed: {reason}"

    async def _probe(self) -> str:
        config = self._config
        if config.kind == "http":
            return await http.probe(config)
        if config.kind == "exec":
            return await command.run(config.command, self._environ)
        if config.kind == "grpc":
            from agent.health import grpc

            return await grpc.probe(config.host, config.port, config.service, config.timeout)
        (await connect(config.host, config.port)).close()
        return ""

    def _what(self) -> str:
        config = self._config
        return f"the command {config.command[0]}" if config.kind == "exec" else f"{config.host}:{config.port}"
