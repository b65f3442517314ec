"""Public names of a package that load when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` (PEP 562) of `package`, whose public names live in submodules: name -> module.

    An empty module name stands for a submodule that is itself the public name.

    >>> get, names = lazy_names("gdrop_viz", {"Fisher": "fisher"})
    >>> get("Fisher").__name__, "Fisher" in names()
    ('Fisher', True)
    """
    module = sys.modules[package]

    def __getattr__(name: str) -> Any:
        if name not in homes:
            known = ", ".join(sorted(homes))
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {known}")
        home = importlib.import_module(f"{package}.{homes[name] or name}")
        value = getattr(home, name) if homes[name] else home
        setattr(module, name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(module), *homes})

    return __getattr__, __dir__
