"""Typed reading of environment variables: a value that does not parse becomes the default and a warning.

It keeps what was read, so that the configuration can say where each value came from.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent.cli.flags import go_bool, go_int
from agent.durations import go_duration

DEFAULT, ENVIRONMENT = "default", "environment"
UNUSABLE = "default (the environment's value is unusable)"


class Used(NamedTuple):
    """A variable as it was read: its value in the configuration and where that comes from."""

    value: Any
    source: str


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text} is not finite")
    return value


class Environment:
    """A mapping of variables, what was read of it (`used`, by name) and the warnings that reading gave, in order."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.warnings: list[str] = []
        self.used: dict[str, Used] = {}

    def text(self, name: str, default: str = "") -> str:
        """A variable that is set to nothing is set."""
        text = self.values.get(name)
        if text is None:
            self.used.setdefault(name, Used(default, DEFAULT))
            return default
        self.used[name] = Used(text, ENVIRONMENT)
        return text

    def optional(self, name: str) -> str | None:
        """A variable that means something else when it is not set at all."""
        text = self.values.get(name)
        self.used[name] = Used(text, DEFAULT if text is None else ENVIRONMENT)
        return text

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._typed(name, default, go_bool))

    def number(self, name: str, default: int) -> int:
        return int(self._typed(name, default, go_int))

    def real(self, name: str, default: float) -> float:
        return float(self._typed(name, default, _finite))

    def seconds(self, name: str, default: float) -> float:
        """A Go duration (`24h`, `100ms`)."""
        seconds = float(self._typed(name, default, go_duration))
        self.used[name] = Used(f"{seconds:g}s", self.used[name].source)
        return seconds

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def _typed(self, name: str, default: Any, parse: Callable[[str], Any]) -> Any:
        text = self.values.get(name)
        if text is None:
            self.used.setdefault(name, Used(default, DEFAULT))
            return default
        try:
            value = parse(text)
        except (ValueError, OverflowError):
            if text:
                self.warn(f"{name}={text!r} is not usable here; the default {default!r} is used instead")
            self.used[name] = Used(default, UNUSABLE if text else DEFAULT)
            return default
        self.used[name] = Used(value, ENVIRONMENT)
        return value
