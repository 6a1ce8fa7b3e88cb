"""Frozen value classes with little to import: `dataclasses` alone would take longer than reading the rules does."""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which is no small import either
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def record(cls: type[T]) -> type[T]: ...
    def replace(value: T, **changes: object) -> T: ...

else:

    def record(cls):
        """Class decorator: the annotated names become fields of a frozen, comparable, hashable value.

        Names in the class attribute `aside` are not compared.
        """
        names = tuple(cls.__annotations__)
        defaults = {n: cls.__dict__[n] for n in names if n in cls.__dict__}
        compared = tuple(n for n in names if n not in cls.__dict__.get("aside", ()))
        methods: dict[str, Callable] = _methods(names, defaults, compared)
        for name, method in methods.items():
            setattr(cls, name, method)
        cls.__match_args__ = names
        return cls

    def _methods(names, defaults, compared):
        legal = frozenset(names)

        def __init__(self, *args, **kwargs):
            values = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
            if len(args) > len(names) or len(values) != len(names) or not legal.issuperset(values):
                wrong = ", ".join(sorted(legal.symmetric_difference(values))) or "too many values"
                raise TypeError(f"{type(self).__name__} with wrong fields: {wrong}")
            self.__dict__.update(values)

        def key(self):
            values = self.__dict__
            return [values[n] for n in compared]

        def __eq__(self, other):
            return key(self) == key(other) if type(other) is type(self) else NotImplemented

        def __hash__(self):
            return hash(tuple(key(self)))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{n}={self.__dict__[n]!r}' for n in names)})"

        def __setattr__(self, name, value):
            raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

        def __delattr__(self, name):
            raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

        found = (__init__, __eq__, __hash__, __repr__, __setattr__, __delattr__)
        return {f.__name__: f for f in found}

    def replace(value, **changes):
        """A copy with some fields changed."""
        return type(value)(**{**value.__dict__, **changes})
