"""Typed access to the mappings of a YAML document, with errors that name the key."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Invalid(Exception):
    """A sentence about one key, without the name of the file."""


class Table:
    """Typed access to one YAML mapping; `finish` refuses the keys that nobody asked for."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise Invalid(f"{where or 'the document'} must be a mapping, not {kind(value)}")
        self._values: dict[Any, Any] = dict(value)
        self._where = where

    def path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def take(self, key: str, default: Any = None) -> Any:
        value = self._values.pop(key, None)
        return default if value is None else value

    def text(self, key: str, valid: Callable[[str], object], what: str, default: str | None = None) -> str:
        value = self.take(key, default)
        if value is None:
            raise Invalid(f"{self.path(key)} is missing")
        if not isinstance(value, str) or not valid(value):
            raise Invalid(f"{self.path(key)} must be {what}, not {value!r}")
        return value

    def label(self, key: str, default: str | None = None) -> str:
        return self.text(key, LABEL.fullmatch, "a DNS label (lower-case letters, digits, dashes)", default)

    def address(self, key: str) -> str:
        value = self.text(key, is_address, "an IP address")
        return str(ipaddress.ip_address(value))

    def port(self, key: str, default: int | None = None) -> int:
        value = self.take(key, default)
        if value is None:
            raise Invalid(f"{self.path(key)} is missing")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
            raise Invalid(f"{self.path(key)} must be a port from 1 to 65535, not {value!r}")
        return value

    def rows(self, key: str) -> list["Table"]:
        value = self.take(key, [])
        if not isinstance(value, list):
            raise Invalid(f"{self.path(key)} must be a list, not {kind(value)}")
        return [Table(row, f"{self.path(key)}[{at}]") for at, row in enumerate(value)]

    def table(self, key: str) -> "Table":
        return Table(self.take(key, {}), self.path(key))

    def finish(self) -> None:
        if self._values:
            raise Invalid(f"{self.path(str(next(iter(self._values))))} is not a known key")


def kind(value: object) -> str:
    return {"NoneType": "nothing", "str": "a text", "list": "a list"}.get(type(value).__name__, type(value).__name__)


def is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text and not address.is_unspecified
