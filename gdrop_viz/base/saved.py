"""Saved results: one sealed file each, so that not even one flipped byte passes for a result.

The formats themselves would not notice: a digit of a JSON file or a bit of a tensor changes, and the file is as valid
as before. So each file carries a checksum of its content, and the names in a file must be exactly the known ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from gdrop_viz.base.digest import feed_tensors
from gdrop_viz.base.files import atomic_path, check_readable

if TYPE_CHECKING:
    import pandas as pd

_SEAL = "sha256"


class DamagedFile(ValueError):
    """A file is not what was written: cut off, changed, or of another kind. The message names it and the remedy."""


# --- result classes ---------------------------------------------------------------------------------------------------

_Result = TypeVar("_Result", bound="Saved")
_parts: dict[str, type[Saved]] = {}


class Saved:
    """Base of the frozen dataclasses that hold a result: saving, loading, and how a terminal and a notebook show it.

    A subclass gives `_summary()`, its result in one line, and `to_frame()`, its table. Its fields may hold tensors,
    arrays, numbers, texts, other `Saved` objects, and tuples, lists and mappings of these; each comes back as it was.
    The decorator needs `repr=False`, or dataclass writes a `__repr__` of its own.

    >>> @dataclasses.dataclass(frozen=True, repr=False)
    ... class Scores(Saved):
    ...     values: np.ndarray
    ...     label: str = ""
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scores.safetensors"
    >>> Scores(np.array([1.0, 2.0]), "mine").save(path)
    >>> Scores.load(path).values
    array([1., 2.])
    """

    __slots__ = ()
    _rows: ClassVar[int | None] = None  # of the table that a notebook shows at the most

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _parts[cls.__name__] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as one safetensors file, replacing what is at `path` only when the new one is whole."""
        tensors: dict[str, Tensor] = {}
        fields = _flattened(self, "", tensors)
        save_tensors(path, f"gdrop_viz.{type(self).__name__}", fields, tensors)

    @classmethod
    def load(cls: type[_Result], path: str | os.PathLike[str]) -> _Result:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no file at `path`.
        DamagedFile
            If the file is damaged, changed or of another kind (a ValueError).
        """
        expected = f"expected a file written by {cls.__name__}.save"
        check_readable(path, expected, "name another file")
        fields, tensors = load_tensors(path, f"gdrop_viz.{cls.__name__}", remedy="make it again and save it anew")
        if not fields:
            raise DamagedFile(f"{expected}, got {os.fspath(path)!r}, which is something else; name another file")
        try:
            value = _restored(fields, tensors)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedFile(f"{expected}, got {os.fspath(path)!r} with {error}; make it again") from None
        if not isinstance(value, cls):
            raise DamagedFile(f"{expected}, got {os.fspath(path)!r} with a {type(value).__name__}; name another file")
        return value

    def _kept(self) -> dict[str, Any]:
        """What a file keeps: all fields, unless a subclass has a shorter form of them, which its `_remade` takes."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def _remade(cls: type[_Result], kept: dict[str, Any]) -> _Result:
        return cls(**kept)

    def _summary(self) -> str:
        return ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._summary()})"

    def _table(self) -> pd.DataFrame | None:
        """What a notebook shows below the line; None for nothing."""
        return self.to_frame() if hasattr(self, "to_frame") else None

    def _repr_html_(self) -> str:
        line, table = f"<p>{html.escape(repr(self))}</p>", self._table()
        if table is None:
            return line
        return line + str(table.to_html(float_format=lambda value: f"{value:.4g}", max_rows=self._rows))


def _flattened(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON can hold it; its tensors and arrays go into `tensors` under names that begin by `name`."""
    if isinstance(value, (Tensor, np.ndarray)):
        while name in tensors:  # "a/b" may be a key, or the key "b" in "a"
            name += "'"
        tensors[name] = (value if isinstance(value, Tensor) else _tensor_of(value)).detach().cpu()
        return {"tensor": name} if isinstance(value, Tensor) else {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Saved):
        kept = {
            part: _flattened(content, f"{name}/{part}" if name else part, tensors)
            for part, content in value._kept().items()
        }
        return {"object": type(value).__name__, "fields": kept}
    if isinstance(value, Mapping):
        return {"mapping": [[key, _flattened(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (tuple, list)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flattened(item, f"{name}/{number}", tensors) for number, item in enumerate(value)]}
    return value


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content), *more) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "object":
        return _parts[content]._remade({name: _restored(item, tensors) for name, item in more[0][1].items()})
    if kind == "mapping":
        return {tuple(key) if isinstance(key, list) else key: _restored(item, tensors) for key, item in content}
    items = [_restored(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def _tensor_of(array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(np.array(array, order="C"))  # a copy: the strides may run backwards
    except TypeError:
        raise TypeError(f"expected arrays of numbers in a result to save, got one of {array.dtype}") from None


# --- safetensors ------------------------------------------------------------------------------------------------------


def save_tensors(path: str | os.PathLike[str], key: str, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write `tensors` and, under `key` in the metadata, the JSON-like `header`, as one sealed safetensors file."""
    from safetensors.torch import save_file

    # clones, since safetensors refuses tensors that share memory
    whole = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    text = json.dumps(header)
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={key: text, _SEAL: _tensors_checksum(key, text, whole)})


def load_tensors(path: str | os.PathLike[str], key: str, *, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a file that `save_tensors` wrote; the header is {} in a file from elsewhere.

    Raises DamagedFile, with the `remedy`, if the file is cut off or changed; OSError if it cannot be read at all.
    """
    from safetensors import SafetensorError, safe_open

    check_readable(path, "expected a safetensors file", "name another file")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if key not in metadata:
                return {}, {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if set(metadata) != {key, _SEAL}:
            raise ValueError("its header names something unknown, or lacks its checksum")
        if metadata[_SEAL] != _tensors_checksum(key, metadata[key], tensors):
            raise ValueError("its checksum does not fit its content")
        header = json.loads(metadata[key])
        if not isinstance(header, dict):
            raise ValueError("its header is no mapping")
    except (SafetensorError, ValueError, RuntimeError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise DamagedFile(f"{os.fspath(path)} is damaged or not a safetensors file ({why}); {remedy}") from None
    return header, tensors


def _tensors_checksum(key: str, header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{key}\n{header}\n".encode())
    feed_tensors(digest, sorted(tensors.items()), end="\n")
    return digest.hexdigest()


# --- JSON -------------------------------------------------------------------------------------------------------------


def save_json(path: str | os.PathLike[str], content: Mapping[str, Any], *, allow_nan: bool = False) -> None:
    """Write `content` as JSON with its checksum as the last entry."""
    sealed = {**content, _SEAL: _json_checksum(content)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(sealed, indent=1, allow_nan=allow_nan), encoding="utf-8")


def json_seal(content: Mapping[str, Any]) -> str:
    """The last entry of a JSON file with this content, for files that are laid out by hand."""
    return f"{json.dumps(_SEAL)}: {json.dumps(_json_checksum(content))}"


def load_json(
    path: str | os.PathLike[str], *, kind: str, names: Collection[str], form: str, remedy: str
) -> dict[str, Any]:
    """Return what `save_json` wrote, if it has the entry "format": `form` and otherwise exactly the entries `names`.

    `kind` says what the file should be ("a dropout schedule"). Raises FileNotFoundError, or DamagedFile with the
    `remedy`. An entry changed by hand is refused too; without its "sha256" a file is taken as it is.
    """
    path = Path(path)
    check_readable(path, f"expected {kind}", remedy)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        raise DamagedFile(f"{path} is not {kind}: damaged, or not JSON ({why}); {remedy}") from None
    came = content.get("format") if isinstance(content, dict) else None
    if came != form:
        raise DamagedFile(f"{path} is not {kind}: expected format {form!r}, got {came!r}; {remedy}")
    seal = content.pop(_SEAL, None)
    if set(content) != {"format", *names}:
        odd = ", ".join(sorted({"format", *names} ^ set(content))[:3])
        raise DamagedFile(f"{path} is not {kind}: these entries are missing or unknown: {odd}; {remedy}")
    if seal is not None and seal != _json_checksum(content):
        raise DamagedFile(
            f"{path} has changed since it was written (its checksum does not fit); {remedy}. If you changed it by "
            f'hand, delete its line "{_SEAL}"'
        )
    content.pop("format")
    return content


def _json_checksum(content: Mapping[str, Any]) -> str:
    # through JSON and back, so that tuples are lists and numbers are those that a reader will find
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
