"""Digest (sha256) of whatever determines a number: tensors, arrays, settings, code."""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Undigestible(ValueError):
    """A value's content cannot be told, so a result that depends on it cannot be recognised again."""


def digest(*values: Any) -> str:
    """Return 64 hex digits that change whenever one of `values` does.

    Tensors and arrays count with every bit, type and shape; mappings without their order; dataclasses by their fields;
    functions by their code, defaults, closure and the globals that they read, an imported helper's code among them.
    What a library defines counts by its name.

    Raises
    ------
    Undigestible
        For an object whose content cannot be told from outside.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), digest(1) == digest(1.0)
    (True, False)
    >>> digest(torch.ones(2)) == digest(torch.ones(1, 2))
    False
    """
    found = hashlib.sha256()
    for value in values:
        _feed(found, value, set())
    return found.hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def feed_tensors(found: Any, tensors: Iterable[tuple[str, Tensor]], *, end: str = "") -> None:
    """Put named tensors into a hashlib object, every bit, type, shape and name; `end` closes each description."""
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}{end}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _feed(found: Any, value: Any, seen: set[int]) -> None:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, Path, torch.dtype, torch.device)):
        found.update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, Tensor):
        feed_tensors(found, [("tensor", value)], end=";")
    elif isinstance(value, np.ndarray) and value.dtype != object:
        found.update(f"array {value.dtype} {value.shape};".encode())
        found.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.size else b"")
    elif isinstance(value, np.generic):
        _feed(found, value.item(), seen)
    elif id(value) in seen:
        found.update(b"again;")  # recursion: a function that calls itself
    else:
        _feed_whole(found, value, seen | {id(value)})


def _feed_whole(found: Any, value: Any, seen: set[int]) -> None:
    if isinstance(value, Mapping):
        found.update(f"mapping {len(value)};".encode())
        for key in sorted(value, key=repr):
            _feed(found, key, seen)
            _feed(found, value[key], seen)
    elif isinstance(value, (Sequence, np.ndarray)):
        found.update(f"sequence {len(value)};".encode())
        for item in value:
            _feed(found, item, seen)
    elif isinstance(value, (set, frozenset)):
        _feed(found, sorted(value, key=repr), seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        found.update(f"{type(value).__qualname__};".encode())
        _feed(found, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, seen)
        _feed_class(found, type(value))
    elif isinstance(value, ModuleType):
        found.update(f"module {value.__name__} {getattr(value, '__version__', '')};".encode())
        if _is_own(value.__name__) and getattr(value, "__file__", None):
            found.update(file_digest(Path(str(value.__file__))).encode())
    elif isinstance(value, (functools.partial, MethodType, FunctionType, type)) or inspect.isbuiltin(value):
        _feed_callable(found, value, seen)
    elif hasattr(value, "__dict__"):  # any other object: its class and what it holds
        _feed_class(found, type(value))
        _feed(found, vars(value), seen)
    elif isinstance(value, np.ufunc):
        found.update(f"builtin {value.__name__};".encode())
    else:
        raise Undigestible(f"the content of a {type(value).__qualname__} cannot be told")


def _feed_callable(found: Any, function: Callable[..., Any], seen: set[int]) -> None:
    if isinstance(function, functools.partial):
        _feed(found, [function.func, function.args, function.keywords], seen)
    elif isinstance(function, MethodType):
        _feed(found, [function.__func__, function.__self__], seen)
    elif isinstance(function, FunctionType):
        found.update(f"function {function.__qualname__};".encode())
        if not _is_own(function.__module__):
            return  # a library's function is told by its name (and, where it matters, the library's version)
        _feed_code(found, function.__code__)
        _feed(found, [function.__defaults__, function.__kwdefaults__], seen)
        closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        _feed(found, {name: cell.cell_contents for name, cell in closed.items() if _is_filled(cell)}, seen)
        names = set(_global_names(function.__code__)) & set(function.__globals__)
        _feed(found, {name: function.__globals__[name] for name in names}, seen)
    elif isinstance(function, type):
        _feed_class(found, function)
    else:
        found.update(f"builtin {getattr(function, '__module__', '')} {function.__qualname__};".encode())


def _feed_class(found: Any, kind: type) -> None:
    found.update(f"class {kind.__module__} {kind.__qualname__};".encode())
    if not _is_own(kind.__module__):
        return
    for name, member in sorted(vars(kind).items()):
        function = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
        function = function.fget if isinstance(function, property) else function
        if isinstance(function, FunctionType):
            found.update(name.encode())
            _feed_code(found, function.__code__)


def _feed_code(found: Any, code: CodeType) -> None:
    # not the file's name and line numbers: a cell that is run again is the same code
    found.update(code.co_code)
    found.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _feed_code(found, constant)
        else:
            found.update(repr(constant).encode())


def _global_names(code: CodeType) -> Iterator[str]:
    """The names of globals that the code reads, in functions inside it too."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a name of the enclosing function that has no value yet
        return False
    return True


def _is_own(module: str | None) -> bool:
    """Whether a module is the caller's own code: of no installed package, the standard library or this package."""
    if module is None or module.split(".")[0] in {"gdrop_viz", *sys.stdlib_module_names} - {"__main__"}:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)
