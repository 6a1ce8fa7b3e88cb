"""Errors that end the process, or one attempt, with one sentence for a person.

RemoraError
├── ConfigError      what the user configured cannot work; exit 255, as istio's agent
├── FatalError       the world refused at run time (bind, exec, give-up); exit 1
└── AttemptError     one attempt failed and will be retried; never ends the process
"""

LONGEST = 2000  # characters of a sentence


class RemoraError(Exception):
    """Base: `str(error)` is one sentence that says what, where and what to do; `exit_code` is the process status."""

    exit_code = 1

    def __str__(self) -> str:
        """One line that can be printed, whatever was put into it, with its middle left out if it is very long."""
        text = super().__str__()
        if not text.isprintable():
            text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class ConfigError(RemoraError):
    exit_code = 255


class FatalError(RemoraError):
    exit_code = 1


class AttemptError(RemoraError):
    """A failed attempt. `reason` is a short label for metrics, such as `unavailable` or `bad_chain`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
