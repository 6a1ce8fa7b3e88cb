"""Modules that others import and that we can do without until they are used."""

import sys
from importlib import import_module
from importlib.util import LazyLoader, find_spec, module_from_spec


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
