"""Modules that others import and that we can do without until they are used."""

import sys
from importlib import import_module
from importlib.util import LazyLoader, find_spec, module_from_spec
from threading import Lock
from types import ModuleType


def defer(package: str, name: str) -> None:
    """Load `package.name` when it is first used, although others import it right away; nothing if it is there."""
    full = f"{package}.{name}"
    spec = None if full in sys.modules else find_spec(full)
    if spec is None or spec.loader is None:
        return
    spec.loader = LazyLoader(spec.loader)
    module = sys.modules[full] = module_from_spec(spec)
    spec.loader.exec_module(module)
    # `from package import name` takes it from here; a look at sys.modules would already count as use.
    setattr(import_module(package), name, module)


_GIVING_WAY = Lock()


class _StandIn(ModuleType):
    """Has the attributes of the module whose name it bears, which is imported when the first of them is asked for."""

    def __getattr__(self, attribute: str) -> object:
        name = self.__name__
        if attribute in ("__spec__", "__path__", "__file__"):  # the import system's questions
            raise AttributeError(f"module {name!r} is not loaded yet")
        with _GIVING_WAY:  # the one who makes way must not remove what the other has imported
            if sys.modules.get(name) is self:
                del sys.modules[name]
        return getattr(import_module(name), attribute)


def stand_in(*names: str) -> None:
    """Let others import these modules without loading them; nothing for those that are there."""
    for name in names:
        sys.modules.setdefault(name, _StandIn(name))
