"""Classes of named fields that cost nothing to define: Envoy waits for those that the agent is made of.

A dataclass compiles its methods from text: fifty of them are thirty milliseconds, and `dataclasses` imports `inspect`.
These classes share their methods. Only a class of which many are made gets an `__init__` of its own, in time.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which is no small import either
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import Field
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")

    def fresh(*, factory: Callable[[], T]) -> T: ...
    @dataclass_transform(frozen_default=True, field_specifiers=(fresh,))
    def record(cls: type[T]) -> type[T]: ...
    @dataclass_transform(frozen_default=True, field_specifiers=(fresh,))
    def message(cls: type[T]) -> type[T]: ...
    @dataclass_transform(eq_default=False, field_specifiers=(fresh,))
    def state(cls: type[T]) -> type[T]: ...
    def replace(value: T, /, **changes: object) -> T: ...

else:
    from itertools import count

    MANY = 100  # instances after which a class gets an `__init__` of its own: that takes as long as making so many

    class fresh:
        """A field's default that is made anew for every instance."""

        def __init__(self, *, factory):
            self.factory = factory

    def record(cls):
        """Class decorator: annotated names become the fields of a frozen, comparable value, in order.

        Names in the class attribute `unshown` are left out of repr(), those in `aside` are not compared.
        """
        return _with(_fields(cls), __eq__, __hash__, __setattr__, __delattr__)

    def message(cls):
        """A record of which one is made for every message: only mypy keeps it from being changed, at a third of the
        cost.
        """
        return _with(_fields(cls), __eq__, __hash__)

    def state(cls):
        """Fields that change, in an object that equals only itself."""
        return _fields(cls)

    def _fields(cls):
        names = tuple(cls.__annotations__)
        cls.__match_args__ = names
        cls._defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
        cls._fresh = {name: value.factory for name, value in cls._defaults.items() if isinstance(value, fresh)}
        cls._made = count(1)
        cls.__dataclass_fields__ = _DataclassFields()
        return _with(cls, __init__, __repr__)

    def _with(cls, *methods):
        for method in methods:
            setattr(cls, method.__name__, method)
        return cls

    def __init__(self, *args, **kwargs):
        cls = type(self)
        names = cls.__match_args__
        values = {**cls._defaults, **dict(zip(names, args, strict=False)), **kwargs}
        twice = kwargs and [name for name in names[: len(args)] if name in kwargs]
        if len(args) > len(names) or twice or values.keys() != cls.__annotations__.keys():
            wrong = ", ".join(twice or sorted(values.keys() ^ names)) or "too many values"
            raise TypeError(f"{cls.__name__} with wrong fields: {wrong}")
        for name, factory in cls._fresh.items():
            if values[name] is cls._defaults[name]:
                values[name] = factory()
        self.__dict__.update(values)
        if next(cls._made) == MANY:
            cls.__init__ = _compiled(cls)

    def _compiled(cls):
        """What one would write by hand. The text holds names of fields and nothing else."""
        frozen = cls.__setattr__ is __setattr__
        signature, lines = ["self"], ["    _values = self.__dict__"] if frozen else []
        for name in cls.__match_args__:
            signature.append(f"{name}=_defaults[{name!r}]" if name in cls._defaults else name)
            value = f"_fresh[{name!r}]() if {name} is _defaults[{name!r}] else {name}" if name in cls._fresh else name
            lines.append(f"    _values[{name!r}] = {value}" if frozen else f"    self.{name} = {value}")
        scope = {"_defaults": cls._defaults, "_fresh": cls._fresh}
        exec("\n".join([f"def __init__({', '.join(signature)}):", *lines, "    pass"]), scope)
        return scope["__init__"]

    def _compared(value):
        aside = getattr(value, "aside", ())
        return tuple(getattr(value, name) for name in value.__match_args__ if name not in aside)

    def __eq__(self, other):
        return _compared(self) == _compared(other) if type(other) is type(self) else NotImplemented

    def __hash__(self):
        return hash(_compared(self))

    def __repr__(self):
        hidden = getattr(self, "unshown", ())
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__ if name not in hidden)
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
        return type(value)(**{name: getattr(value, name) for name in value.__match_args__} | changes)
