"""Typed reading of environment variables: a value that does not parse becomes the default and a warning."""

from collections.abc import Callable, Mapping
from typing import Any

from agent.cli.flags import go_bool, go_int
from agent.durations import go_duration


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text} is not finite")
    return value


class Environment:
    """A mapping of variables plus the warnings that reading them gave, in order."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.warnings: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """A variable that is set to nothing is set."""
        return self.values.get(name, default)

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._typed(name, default, go_bool))

    def number(self, name: str, default: int) -> int:
        return int(self._typed(name, default, go_int))

    def real(self, name: str, default: float) -> float:
        return float(self._typed(name, default, _finite))

    def seconds(self, name: str, default: float) -> float:
        """A Go duration (`24h`, `100ms`)."""
        return float(self._typed(name, default, go_duration))

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def _typed(self, name: str, default: Any, parse: Callable[[str], Any]) -> Any:
        text = self.values.get(name)
        if text is None:
            return default
        try:
            return parse(text)
        except (ValueError, OverflowError):
            if text:
                self.warn(f"{name}={text!r} is not usable here; the default {default!r} is used instead")
            return default
