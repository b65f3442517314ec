"""How is a file read so that not even one flipped byte passes for a result? Each carries a checksum of its content.

The formats themselves would not notice: a digit of a JSON file or a bit of a tensor changes, and the file is as valid
as before. Files from before there were checksums are still read; a checksum that was there cannot get lost unseen,
since the names in a file must be exactly the known ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gdrop_viz._files import atomic_path
from gdrop_viz._hashing import feed_tensors

_SEAL = "sha256"


class DamagedFile(ValueError):
    """A file is not what was written: cut off, changed, or of another kind. The message names it and the remedy."""


# --- safetensors ------------------------------------------------------------------------------------------------------


def save_tensors(path: str | os.PathLike[str], key: str, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write `tensors` and, under `key` in the metadata, the JSON-like `header`, as one sealed safetensors file."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header)
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={key: text, _SEAL: _tensors_checksum(key, text, whole)})


def load_tensors(path: str | os.PathLike[str], key: str, *, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a file that `save_tensors` wrote; the header is {} in a file from elsewhere.

    Raises DamagedFile, with the `remedy`, if the file is cut off or changed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if key not in metadata:
                return {}, {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not {key} <= set(metadata) <= {key, _SEAL}:
            raise ValueError("its header names something unknown")
        if _SEAL in metadata and metadata[_SEAL] != _tensors_checksum(key, metadata[key], tensors):
            raise ValueError("its checksum does not fit its content")
        header = json.loads(metadata[key])
        if not isinstance(header, dict):
            raise ValueError("its header is no mapping")
    except (SafetensorError, OSError, ValueError, RuntimeError, RecursionError) as error:
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
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"expected {kind} at {path}, which {found}; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        raise DamagedFile(f"{path} is not {kind}: damaged, or not JSON ({why}); {remedy}") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != form:
        raise DamagedFile(f"{path} is not {kind}: expected format {form!r}, got {found!r}; {remedy}")
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
