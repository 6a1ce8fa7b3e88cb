"""How a process ended, in words: pure."""

import signal

from agent.record import record

SUSPICIOUS = 5.0  # seconds between new configuration and a crash


@record
class Exit:
    """`status`: an exit code, or −N for signal N; `oom`: the kernel counted an out-of-memory kill meanwhile."""

    status: int
    oom: bool = False
    error: str = ""  # it was not even started: why, as a sentence without its full stop
    suspect: str = ""  # what happened right before, see `after_push`

    @property
    def clean(self) -> bool:
        """Envoy ends with 0 only when somebody asked it to: its own /quitquitquit, or SIGTERM."""
        return self.status == 0 and not self.error

    @property
    def kind(self) -> str:
        """A stable word for metrics and events: `exit`, `signal`, `oom` or `spawn`."""
        if self.error:
            return "spawn"
        if self.status < 0:
            return "oom" if self.oom and -self.status == signal.SIGKILL else "signal"
        return "exit"

    @property
    def phrase(self) -> str:
        """Completes "Envoy ..."."""
        if self.error:
            return f"could not be started: {self.error}"
        if self.status >= 0:
            return f"exited with status {self.status}{self.suspect}"
        name = signal_name(-self.status)
        if -self.status != signal.SIGKILL:
            return f"was killed by {name}{self.suspect}"
        if self.oom:
            return "was killed by SIGKILL: out of memory (raise the container's memory limit)"
        return "was killed by SIGKILL (possibly out of memory on the node; nothing was counted in this container)"


def after_push(seconds: float, type_url: str, version: str) -> str:
    """Ends "Envoy was killed by ...": a crash this soon after new configuration is most likely caused by it; or ""."""
    if seconds > SUSPICIOUS:
        return ""
    which = f", version {version}" if version else ""
    return f" {seconds:.1f} s after it was sent new configuration ({type_url.rpartition('.')[2]}{which})"


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11; real-time and unknown signals by number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
