"""Frozen value classes that cost nothing to define: Envoy waits for the classes that the configuration is made of.

A dataclass compiles its methods from text; a dozen of them are ten milliseconds, and `dataclasses` imports `inspect`.
A record shares its methods with every other record and knows only its fields' names.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which is no small import either
if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import Field
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def record(cls: type[T]) -> type[T]: ...
    def replace(value: T, /, **changes: object) -> T: ...

else:

    def record(cls):
        """Class decorator: annotated names become the fields of a frozen, comparable value, in order.

        Names in the class attribute `unshown` are left out of repr().
        """
        names = tuple(cls.__annotations__)
        cls.__match_args__ = names
        cls._defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
        cls.__dataclass_fields__ = _DataclassFields()
        for method in (__init__, __eq__, __hash__, __repr__, __setattr__, __delattr__):
            setattr(cls, method.__name__, method)
        return cls

    def __init__(self, *args, **kwargs):
        names = self.__match_args__
        values = {**self._defaults, **dict(zip(names, args, strict=False)), **kwargs}
        if len(args) > len(names) or len(values) != len(names) or not all(name in values for name in names):
            wrong = ", ".join(sorted(set(names).symmetric_difference(values))) or "too many values"
            raise TypeError(f"{type(self).__name__} with wrong fields: {wrong}")
        self.__dict__.update(values)

    def __eq__(self, other):
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self):
        return hash(tuple(self.__dict__[name] for name in self.__match_args__))

    def __repr__(self):
        hidden = getattr(self, "unshown", ())
        shown = (f"{name}={self.__dict__[name]!r}" for name in self.__match_args__ if name not in hidden)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __setattr__(self, name, value):
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name):
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    class _DataclassFields:
        """What `dataclasses.replace`, `asdict` and `fields` look for; made when somebody asks."""

        def __get__(self, instance: object, owner: type) -> Mapping[str, Field[Any]]:
            from dataclasses import make_dataclass

            found = make_dataclass(owner.__name__, owner.__match_args__).__dataclass_fields__
            owner.__dataclass_fields__ = found
            return found

    def replace(value, /, **changes):
        """A copy with some fields changed."""
        return type(value)(**{**value.__dict__, **changes})
