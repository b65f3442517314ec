"""A reader for the character vectors of an R package, without R.

An installed R package keeps its data in a lazy-load database: `Rdata.rdx` is a gzipped, serialised list of
name -> (offset, length), and each record of `Rdata.rdb` is a big-endian length followed by a zlib stream of one
serialised R object. The format is described in "R Internals", section 1.8 (serialization formats).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

# SEXPTYPE codes of "R Internals" section 1.1 that a database of character vectors can hold
_SYMBOL, _PAIRLIST, _CHAR, _LOGICAL, _INTEGER, _REAL, _STRING, _LIST = 1, 2, 9, 10, 13, 14, 16, 19
_NULL, _GLOBAL, _REFERENCE = 254, 253, 255
_HAS_ATTRIBUTES, _HAS_TAG = 1 << 9, 1 << 10


class _Reader:
    """Reads one object in R's XDR serialisation (versions 2 and 3)."""

    def __init__(self, data: bytes) -> None:
        if data[:2] != b"X\n":
            raise ValueError(f"expected R's XDR serialisation (starts with b'X\\n'), got {data[:2]!r}")
        self.data, self.at, self.symbols = data, 2, []
        version, _, _ = self.integers(3)
        if version == 3:  # version 3 adds the name of the native encoding
            self.raw(self.integers(1)[0])

    def raw(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]

    def integers(self, n: int) -> tuple[int, ...]:
        return struct.unpack(f">{n}i", self.raw(4 * n))

    def object(self) -> Any:
        flags = self.integers(1)[0]
        kind = flags & 0xFF
        if kind in (_NULL, _GLOBAL):
            return None
        if kind == _REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == _SYMBOL:
            self.symbols.append(self.object())
            return self.symbols[-1]
        if kind == _CHAR:
            n = self.integers(1)[0]
            return None if n == -1 else self.raw(n).decode("utf-8", errors="replace")
        if kind == _PAIRLIST:
            if flags & _HAS_ATTRIBUTES:
                self.object()
            tag = self.object() if flags & _HAS_TAG else ""
            value = self.object()
            return {tag: value} | (self.object() or {})
        n = self.integers(1)[0]
        if kind in (_LOGICAL, _INTEGER):
            value: Any = list(self.integers(n))
        elif kind == _REAL:
            value = list(struct.unpack(f">{n}d", self.raw(8 * n)))
        elif kind in (_STRING, _LIST):
            value = [self.object() for _ in range(n)]
        else:
            raise ValueError(f"R object of type {kind} at byte {self.at}: only vectors and lists are understood")
        attributes = self.object() if flags & _HAS_ATTRIBUTES else {}
        if kind == _LIST and "names" in attributes:
            return dict(zip(attributes["names"], value, strict=True))
        return value


def read_lazy_load(folder: Path) -> dict[str, list[str]]:
    """Return every object of the lazy-load database in `folder` (`Rdata.rdx` and `Rdata.rdb`), by name."""
    index = _Reader(gzip.decompress((folder / "Rdata.rdx").read_bytes())).object()
    database = (folder / "Rdata.rdb").read_bytes()
    objects = {}
    for name, (offset, length) in index["variables"].items():
        size = struct.unpack(">I", database[offset : offset + 4])[0]
        record = zlib.decompress(database[offset + 4 : offset + length])
        if len(record) != size:
            raise ValueError(f"record {name!r} of {folder} holds {len(record)} bytes where {size} were announced")
        objects[name] = _Reader(record).object()
    return objects
