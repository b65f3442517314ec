"""Digest (sha256) of whatever determines a number: tensors, arrays, settings, code."""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, bytearray, range, slice, Path, torch.dtype, torch.device)
# what Python keeps in every class, and what says nothing about how its objects behave
_OF_CLASSES = frozenset(
    "__dict__ __weakref__ __module__ __doc__ __annotations__ __annotate_func__ __annotations_cache__ __qualname__ "
    "__firstlineno__ __static_attributes__ __abstractmethods__ _abc_impl __parameters__ __orig_bases__ "
    "__dataclass_fields__ __dataclass_params__ __match_args__ __slotnames__".split()
)


class Undigestible(ValueError):
    """A value's content cannot be read, so a result that depends on it cannot be recognised again."""


def digest(*values: Any) -> str:
    """Return 64 hex digits that change whenever one of `values` does, and are the same in another process.

    Tensors and arrays count with every bit, type and shape; mappings and sets without their order; dataclasses by their
    fields; other objects by their class and what pickle would keep of them. Functions count by their code, defaults,
    closure and the globals that they read; helpers that they call, from other modules too, by the same rule, and so do
    classes with their methods and bases. What a library, Python or this package defines counts by its name.

    Raises
    ------
    Undigestible
        For an object whose content cannot be read from outside (an open file, a lock, a tensor without data).

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}), digest(1) == digest(1.0)
    (True, False)
    >>> digest(torch.ones(2)) == digest(torch.ones(1, 2))
    False
    """
    try:
        return _Walk().of(values).hex()
    except RecursionError:
        raise Undigestible("expected values whose content can be read, got ones that are nested too deeply") from None


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
        flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy())


class _Walk:
    """One walk over nested values; each object is read once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes]] = {}  # the objects too: an id lives as long as its object
        self._open: list[int] = []

    def of(self, value: Any) -> bytes:
        """The digest of one value."""
        if value is None or value is Ellipsis or value is NotImplemented or isinstance(value, _PLAIN):
            return _hashed(f"{type(value).__name__} {value!r}".encode())
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._open:  # recursion: a function that calls itself
            return _hashed(f"again {len(self._open) - self._open.index(id(value))}".encode())
        self._open.append(id(value))
        try:
            found = self._whole(value)
        finally:
            self._open.pop()
        self._known[id(value)] = value, found
        return found

    def _all(self, kind: str, values: Iterable[Any]) -> bytes:
        return _hashed(kind.encode(), *map(self.of, values))

    def _whole(self, value: Any) -> bytes:
        if isinstance(value, Tensor):
            return _of_tensor(value)
        if isinstance(value, np.generic):
            return self.of(np.asarray(value))
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return self._all(f"array {value.shape}", value.ravel().tolist())
            data = np.ascontiguousarray(value).reshape(-1)
            return _hashed(f"array {value.dtype} {value.shape}".encode(), data.tobytes())
        if isinstance(value, Mapping):
            items = sorted(self.of(key) + self.of(item) for key, item in value.items())
            return _hashed(b"mapping", *items)
        if isinstance(value, Sequence):
            return self._all("sequence", value)
        if isinstance(value, (set, frozenset)):
            return _hashed(b"set", *sorted(map(self.of, value)))
        if isinstance(value, ModuleType):
            return self._module(value, None)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return self._all("method", [value.__func__, value.__self__])
        if isinstance(value, functools.partial):
            return self._all("partial", [value.func, value.args, value.keywords])
        if isinstance(value, (staticmethod, classmethod)):
            return self._all(type(value).__name__, [value.__func__])
        if isinstance(value, property):
            return self._all("property", [value.fget, value.fset, value.fdel])
        if isinstance(value, functools.cached_property):
            return self._all("cached property", [value.func])
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
            return self._all("dataclass", [type(value), fields])
        named = (types.MemberDescriptorType, types.GetSetDescriptorType)
        if isinstance(value, named) or (inspect.isroutine(value) and not hasattr(value, "__dict__")):
            owner = getattr(value, "__self__", None)
            bound = None if isinstance(owner, ModuleType) else owner
            home = getattr(value, "__module__", None) or getattr(value, "__objclass__", None)
            return self._all(f"builtin {home} {value.__qualname__}", [bound])
        return self._object(value)

    def _object(self, value: Any) -> bytes:
        """Any other object: its class, and what pickle would keep of it."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            kept = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except Exception as error:  # classes refuse in their own ways
            kind = type(value).__qualname__
            raise Undigestible(f"expected a value whose content can be read, got a {kind} ({error})") from None
        if isinstance(kept, str):  # a name in its module
            wrapped = getattr(value, "__dict__", None)  # `functools.lru_cache` keeps the function there
            return self._all("named", [type(value), getattr(value, "__module__", None), kept, wrapped])
        maker, arguments, state, items, pairs = [*kept, None, None, None][:5]
        contents = [None if part is None else list(part) for part in (items, pairs)]
        return self._all("object", [type(value), maker, arguments, state, *contents])

    def _function(self, function: FunctionType) -> bytes:
        name = f"function {function.__qualname__}"
        # not by `__module__`, which `functools.wraps` copies from the function inside
        home = function.__globals__.get("__name__")
        if not _is_own(home):
            return self._all(f"{name} of {home}", [function.__defaults__, *_filled(function).values()])
        code = function.__code__
        names = frozenset(_names(code))
        globals_read = {
            each: _Seen(value, names) if isinstance(value := function.__globals__[each], ModuleType) else value
            for each in set(_global_names(code)) & set(function.__globals__)
        }
        imported = {each: _Seen(found, names) for each, found in _imported(function)}
        attributes = {key: value for key, value in vars(function).items() if key != "__wrapped__"}
        settings = [function.__defaults__, function.__kwdefaults__, attributes, _filled(function)]
        return self._all(name, [*self._code(code), *settings, self._read(globals_read), self._read(imported)])

    def _read(self, values: Mapping[str, Any]) -> dict[str, bytes]:
        """Digests of what code reads; of a module it reads some names only."""
        return {
            name: self._module(value.module, value.names) if isinstance(value, _Seen) else self.of(value)
            for name, value in values.items()
        }

    def _code(self, code: CodeType) -> Iterator[Any]:
        # not the file's name and line numbers: a cell that is run again is the same code
        yield code.co_code
        yield getattr(code, "co_exceptiontable", b"")
        yield code.co_names, code.co_varnames, code.co_freevars, code.co_flags
        for constant in code.co_consts:
            yield list(self._code(constant)) if isinstance(constant, CodeType) else constant

    def _module(self, module: ModuleType, names: frozenset[str] | None) -> bytes:
        """A library by its name and version, the caller's own by what is read of it (None: all)."""
        name = module.__name__
        if not _is_own(name):
            return self._all(f"module {name}", [str(getattr(module, "__version__", ""))])
        if id(module) in self._open and names is None:
            return _hashed(f"module {name}".encode())
        self._open.append(id(module))
        try:
            members = {
                key: _Seen(member, names) if isinstance(member, ModuleType) and names is not None else member
                for key, member in vars(module).items()
                if (key in names if names is not None else not key.startswith("__"))
                and not (isinstance(member, ModuleType) and id(member) in self._open)
            }
            return self._all(f"module {name}", [self._read(members)])
        finally:
            self._open.pop()

    def _class(self, kind: type) -> bytes:
        name = f"class {kind.__module__} {kind.__qualname__}"
        if not _is_own(kind.__module__):
            return _hashed(name.encode())
        members = {key: member for key, member in vars(kind).items() if key not in _OF_CLASSES}
        return self._all(name, [members, kind.__bases__])


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A module of which a function can read these names only."""

    module: ModuleType
    names: frozenset[str]


def _hashed(kind: bytes, *parts: bytes) -> bytes:
    found = hashlib.sha256(f"{len(kind)} ".encode() + kind)
    for part in parts:
        found.update(part)
    return found.digest()


def _of_tensor(tensor: Tensor) -> bytes:
    found = hashlib.sha256()
    try:
        feed_tensors(found, [("tensor", tensor)], end=";")
    except (NotImplementedError, RuntimeError, TypeError) as error:  # without data, sparse, quantised
        why = " ".join(str(error).split())[:100]
        raise Undigestible(f"expected a tensor whose content can be read, got one that cannot be ({why})") from None
    return found.digest()


def _filled(function: FunctionType) -> dict[str, Any]:
    """The closure by names, without those of the enclosing function that have no value yet."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> Iterator[str]:
    for each in _codes(code):
        yield from each.co_names


def _global_names(code: CodeType) -> Iterator[str]:
    for each in _codes(code):
        yield from (step.argval for step in dis.get_instructions(each) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _imported(function: FunctionType) -> Iterator[tuple[str, ModuleType]]:
    """The caller's own modules that a function imports when it runs."""
    package = function.__globals__.get("__package__") or ""
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname != "IMPORT_NAME":
                continue
            for name in (step.argval, f"{package}.{step.argval}".strip(".")):
                try:
                    if not _is_own(name) or (name not in sys.modules and importlib.util.find_spec(name) is None):
                        continue
                    yield name, importlib.import_module(name)
                except (ImportError, ValueError):  # the function itself will say so
                    continue


def _is_own(module: str | None) -> bool:
    """Whether a module is the caller's own code: of no installed package, the standard library or this package."""
    if module is None or module == "__main__":
        return True
    if module.split(".")[0] in {"gdrop_viz", *sys.stdlib_module_names}:
        return False
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if loaded is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        file = spec.origin if spec is not None else None
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)
