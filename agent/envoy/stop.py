"""The request to end, from whoever makes it first: a signal, /quitquitquit, a component that failed."""

from agent.latest import Latest
from agent.model import Readiness
from agent.record import record


@record
class Stop:
    """Why and how to end. `drain`: let connections finish first; `hurry`: somebody asked again, skip every wait."""

    cause: str = ""
    drain: bool = True
    hurry: bool = False

    def __bool__(self) -> bool:
        return bool(self.cause)


class StopSignal:
    """One per process; safe to call from signal handlers that the event loop runs."""

    def __init__(self) -> None:
        self.latest: Latest[Stop] = Latest(Stop())

    @property
    def requested(self) -> bool:
        return bool(self.latest.value)

    @property
    def cause(self) -> str:
        return self.latest.value.cause

    def request(self, cause: str) -> None:
        """Drain, then end (SIGTERM). Asking again changes nothing: kubelets and shells may repeat themselves."""
        if not self.requested:
            self.latest.set(Stop(cause))

    def quit(self, cause: str) -> None:
        """End now, without draining (/quitquitquit); cuts a drain that is under way short."""
        now = self.latest.value
        self.latest.set(Stop(now.cause or cause, drain=False, hurry=True))

    def hurry(self) -> None:
        """A person at a terminal pressed Ctrl-C again: skip the waits of a drain that is under way."""
        if self.requested:
            self.latest.set(Stop(self.cause, drain=self.latest.value.drain, hurry=True))

    async def wait(self) -> Stop:
        """Return once the end was asked for."""
        return await self.latest.until(bool)

    async def readiness(self) -> Readiness:
        """The first gate of /healthz/ready: false as soon as the end was asked for."""
        return Readiness(False, f"server is terminated: {self.cause}") if self.requested else Readiness(True)
