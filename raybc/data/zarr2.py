"""Arrays of zarr (format 2) in a folder or a zip file, read only.

The zarr package would decode with any codec that a file names, including those that run code (pickle); here only those
in `CODECS` are allowed, and numcodecs decodes them.
"""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from raybc.extras import require_extra
from raybc.types import UserError

#: Compressors and filters that map bytes to bytes.
CODECS = ("blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "shuffle", "delta")
META = ".zarray"


class Zarr:
    """The arrays below `path`, by name ("data/action"). Raises `UserError`, or what zipfile raises for damaged
    files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            files = {p.relative_to(path).as_posix() for p in path.rglob(META)}
            self._get: Callable[[str], bytes | None] = self._from_folder
        else:
            self._zip = zipfile.ZipFile(path)
            files = set(self._zip.namelist())
            self._get = self._from_zip
        self.names = {str(PurePosixPath(f).parent) for f in files if PurePosixPath(f).name == META}

    def _from_folder(self, name: str) -> bytes | None:
        file = self.path / name
        if not file.is_file():
            return None
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise UserError(f"{self.path}: {name}: expected a file of the folder, got a link to {file.resolve()}")
        return file.read_bytes()

    def _from_zip(self, name: str) -> bytes | None:
        return self._zip.read(name) if name in self._zip.NameToInfo else None

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole array, decoded. Raises `UserError` for unknown names, other dtypes than numbers and other codecs."""
        text = self._get(f"{name}/{META}") if name in self.names else None
        if text is None:
            raise UserError(f"{self.path}: expected the array {name!r}, got {sorted(self.names)}")
        where = f"{self.path}: {name}"
        meta = json.loads(text)
        dtype = np.dtype(meta["dtype"])
        if meta.get("zarr_format") != 2 or dtype.kind not in "fiub":
            raise UserError(f"{where}: expected numbers in zarr's format 2, got {dtype} in {meta.get('zarr_format')}")
        shape, chunks = tuple(map(int, meta["shape"])), tuple(map(int, meta["chunks"]))
        decoders = [_codec(c, where) for c in (meta.get("compressor"), *reversed(meta.get("filters") or [])) if c]
        separator = meta.get("dimension_separator", ".")
        array = np.full(shape, meta.get("fill_value") or 0, dtype)
        for index in itertools.product(*(range(math.ceil(n / c)) for n, c in zip(shape, chunks, strict=True))):
            key = separator.join(map(str, index))
            data: Any = self._get(f"{name}/{key}")
            if data is None:  # zarr does not store chunks that contain only the fill value
                continue
            for codec in decoders:
                data = codec.decode(data)
            values = np.frombuffer(np.ascontiguousarray(data), dtype)
            if values.size != math.prod(chunks):
                raise UserError(f"{where}: chunk {key}: expected {math.prod(chunks)} numbers, got {values.size}")
            at = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, chunks, shape, strict=True))
            array[at] = values.reshape(chunks, order=meta.get("order", "C"))[tuple(slice(s.stop - s.start) for s in at)]
        return array


def _codec(config: dict[str, Any], where: str) -> Any:
    (numcodecs,) = require_extra(where, "zarr", "numcodecs")
    if config.get("id") not in CODECS:
        raise UserError(f"{where}: expected one of the codecs {', '.join(CODECS)}, got {config.get('id')!r}")
    return numcodecs.get_codec(config)
