"""Kinds of protobuf fields and their JSON spelling: what the tables of ProxyConfig and MeshConfig are made of. Pure.

A kind is a pair (convert, explicit): `convert(value, where)` returns the canonical JSON value or raises ValueError;
`explicit` fields are kept when they hold their default (wrappers, messages, members of a oneof), others are dropped.
"""

from collections.abc import Callable, Mapping
from typing import Any

from agent.durations import proto_nanos, proto_text

Convert = Callable[[Any, str], Any]
Kind = tuple[Convert, bool]

INFINITY = float("inf")
# Filled while the tables are read: the fields of every message, the first name of every enumeration.
_FIELDS: dict[Convert, Mapping[str, Kind]] = {}
_FIRST: dict[Convert, str] = {}


def _wrong(where: str, wanted: str, value: Any) -> ValueError:
    shown = repr(value) if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"
    return ValueError(f"{where} must be {wanted}, not {shown}")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a string (quote it)", value)
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):  # paths and bootstraps can hold neither
        raise _wrong(where, "UTF-8 text without NUL", value)
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "a mapping", value)
    return value


def _integer(low: int, high: int) -> Convert:
    def convert(value: Any, where: str) -> int:
        if isinstance(value, str):
            try:
                value = int(value) if value == value.strip() and "_" not in value else value
            except ValueError:
                pass
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(where, "a whole number", value)
        if not low <= value <= high:
            raise _wrong(where, f"between {low} and {high}", value)
        return value

    return convert


def _double(value: Any, where: str) -> float | int | str:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(where, "a number", value)
    if value != value or value in (INFINITY, -INFINITY):  # JSON has no such numbers, protobuf writes them as text
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _duration(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a duration such as 5s", value)
    try:
        return proto_text(proto_nanos(value))
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from None


def enum(names: str, extra: Mapping[int, str] | None = None, *, explicit: bool = False) -> Kind:
    """An enumeration: its names in the order of their numbers, from 0; `extra` are those out of that order."""
    numbers = {**dict(enumerate(names.split())), **(extra or {})}
    known = set(numbers.values())

    def convert(value: Any, where: str) -> str | int:
        if isinstance(value, str) and value in known:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return numbers.get(value, value)  # protobuf keeps numbers that it does not know
        raise _wrong(where, f"one of {', '.join(numbers.values())}", value)

    _FIRST[convert] = numbers[0]
    return convert, explicit


def list_of(item: Kind) -> Kind:
    def convert(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return [item[0](v, f"{where}[{i}]") for i, v in enumerate(value)]

    return convert, False


def map_of(item: Kind) -> Kind:
    def convert(value: Any, where: str) -> dict[str, Any]:
        return {_key(k): item[0](v, f"{where}.{_key(k)}") for k, v in _mapping(value, where).items()}

    return convert, False


def _key(key: Any) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def camel(name: str) -> str:
    """protobuf's JSON name of a field that may be written in either spelling."""
    first, *others = name.split("_")
    return first + "".join(o[:1].upper() + o[1:] for o in others)


def message(**fields: Kind) -> Kind:
    def convert(value: Any, where: str) -> dict[str, Any]:
        out = {}
        for key, raw in _mapping(value, where).items():
            name = camel(_key(key))
            if raw is None or name not in fields:  # null is unset; unknown fields are tolerated
                continue
            read, explicit = fields[name]
            canonical = read(raw, f"{where}.{name}" if where else name)
            if explicit or not _is_default(read, canonical):
                out[name] = canonical
        return out

    _FIELDS[convert] = fields
    return convert, True


def unknown(value: Any, kind: Kind, where: str = "") -> list[str]:
    """Names of the fields in `value` that a message of this kind does not have; they are ignored, as protobuf does."""
    fields = _FIELDS.get(kind[0])
    if fields is None or not isinstance(value, dict):
        return []
    out: list[str] = []
    for key, inner in value.items():
        name = f"{where}.{_key(key)}" if where else _key(key)
        known = fields.get(camel(_key(key)))
        out += [name] if known is None else unknown(inner, known, name)
    return out


def _is_default(read: Convert, value: Any) -> bool:
    return value in ("", 0, False) or value == [] or value == {} or value == _FIRST.get(read)


def fields_of(kind: Kind) -> tuple[str, ...]:
    """The names of a message's fields."""
    return tuple(_FIELDS[kind[0]])


STR: Kind = (_string, False)
ONE_OF_STR: Kind = (_string, True)
BOOL: Kind = (_boolean, False)
INT: Kind = (_integer(-(2**31), 2**31 - 1), False)
UINT: Kind = (_integer(0, 2**32 - 1), False)
DOUBLE: Kind = (_double, False)
DURATION: Kind = (_duration, True)
STRUCT: Kind = (_mapping, True)
WRAPPED_BOOL: Kind = (_boolean, True)
WRAPPED_INT: Kind = (INT[0], True)
WRAPPED_LONG: Kind = (_integer(-(2**63), 2**63 - 1), True)
WRAPPED_UINT: Kind = (UINT[0], True)
