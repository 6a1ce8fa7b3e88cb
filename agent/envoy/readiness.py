"""Is Envoy configured and live? Asked through its admin port until it is, then remembered for the process's life."""

import asyncio

from agent.config import EnvoyConfig
from agent.envoy import stats
from agent.envoy.admin import Admin
from agent.errors import AttemptError
from agent.latest import Latest
from agent.model import EnvoyPhase, EnvoyState, Readiness

CONFIG_TIMEOUT = 1.0  # seconds
SERVER_TIMEOUT = 3.0


class EnvoyReadiness:
    """A gate of /healthz/ready: `await readiness()`. Callers that come while Envoy is being asked share the answer.

    A success is kept for the life of that Envoy process, because the kubelet's probe itself passes through it.
    """

    def __init__(self, config: EnvoyConfig, state: Latest[EnvoyState]) -> None:
        self._state = state
        self._admin = Admin(config.admin_host, config.admin_port)
        self._pid: int | None = None  # of the process that the two flags speak of
        self._configured = False
        self._live = False
        self._lock = asyncio.Lock()
        self._asked = 0  # finished conversations with Envoy
        self._last = Readiness(False, "Envoy has not been asked yet")

    async def __call__(self) -> Readiness:
        if (verdict := self._known()) is not None:
            return verdict
        asked = self._asked
        async with self._lock:
            if (verdict := self._known()) is not None:
                return verdict
            # Two finished meanwhile: the second began after this call did, so its answer is fresh enough.
            if self._asked - asked < 2:
                pid = self._pid
                answer = await self._ask()
                self._asked += 1
                # It crashed while it was asked: whatever it said does not hold for the next one.
                self._last = answer if self._state.value.pid == pid else Readiness(False, "Envoy is restarting")
            return self._last

    def _known(self) -> Readiness | None:
        """The answer, if no conversation is needed for it."""
        state = self._state.value
        if state.phase not in (EnvoyPhase.RUNNING, EnvoyPhase.DRAINING):
            why = f" (it {state.last_exit})" if state.last_exit else ""
            return Readiness(False, f"Envoy is not running: {state.phase.value}{why}")
        if state.pid != self._pid:
            self._pid, self._configured, self._live = state.pid, False, False
        return Readiness(True) if self._configured and self._live else None

    async def _ask(self) -> Readiness:
        try:
            if not self._configured:
                answer = await self._admin.get(stats.CONFIG_QUERY, CONFIG_TIMEOUT)
                if reason := stats.config_updates(answer.text).reason:
                    return Readiness(False, reason)
                self._configured = True
            answer = await self._admin.get(stats.SERVER_QUERY, SERVER_TIMEOUT)
        except AttemptError as error:
            return Readiness(False, str(error).rstrip("."))
        if reason := stats.server_reason(answer.text):
            return Readiness(False, reason)
        self._live = True
        return Readiness(True)
