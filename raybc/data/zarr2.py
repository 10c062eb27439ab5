"""Arrays of zarr (format 2) in a folder or a zip file, read only.

The zarr package would decode with any codec that a file names, including those that run code (pickle); here only those
in `CODECS` are allowed, and numcodecs decodes them. A chunk is never decoded to more bytes than its array declares, and
an array may not declare much more than its chunks can hold.
"""

from __future__ import annotations

import bz2
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from raybc.causes import expect_file
from raybc.data.bounds import check_fits, check_memory
from raybc.extras import require_extra
from raybc.files import parse_json
from raybc.types import UserError

#: Compressors and filters that map bytes to bytes.
CODECS = ("blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "shuffle", "delta")
#: Those of Python, which can be stopped at a number of bytes; the others write their size first.
_STOPPABLE: dict[str, Callable[[], Any]] = {
    "zlib": zlib.decompressobj,
    "gzip": lambda: zlib.decompressobj(31),
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
META = ".zarray"
#: Bytes per byte on disk that compression may save (zstd on constant images), and what an array may have in any case,
#: since chunks of nothing but the fill value are not stored.
MAX_RATIO, ALWAYS_BYTES = 1 << 14, 1 << 26


class Zarr:
    """The arrays below `path`, by name ("data/action"). Raises `UserError`, or what zipfile raises for damaged
    files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            files = {p.relative_to(path).as_posix(): p.stat().st_size for p in path.rglob("*") if p.is_file()}
            self._get: Callable[[str], bytes] = self._from_folder
        else:
            self._zip = zipfile.ZipFile(path)
            files = {info.filename: info.compress_size for info in self._zip.infolist()}
            self._get = self._from_zip
        self._files = files
        self.names = {str(PurePosixPath(f).parent) for f in files if PurePosixPath(f).name == META}

    def _from_folder(self, name: str) -> bytes:
        expect_file(self.path / name, "a part of the zarr array")
        return (self.path / name).read_bytes()

    def _from_zip(self, name: str) -> bytes:
        info = self._zip.getinfo(name)
        check_fits(info.file_size, info.compress_size, f"{self.path}: {name}", MAX_RATIO)
        return self._zip.read(name)

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole array, decoded. Raises `UserError` for unknown names, other dtypes than numbers and other codecs."""
        if name not in self.names:
            raise UserError(f"{self.path}: expected the array {name!r}, got {sorted(self.names)}")
        where = f"{self.path}: {name}"
        meta = parse_json(self._get(f"{name}/{META}"), f"{where}/{META}")
        if not isinstance(meta, dict):
            raise UserError(f"{where}/{META}: expected a mapping, got {type(meta).__name__}")
        dtype = np.dtype(meta["dtype"])
        if meta.get("zarr_format") != 2 or dtype.kind not in "fiub":
            raise UserError(f"{where}: expected numbers in zarr's format 2, got {dtype} in {meta.get('zarr_format')}")
        shape, chunks = _sizes(meta, "shape", where, 0), _sizes(meta, "chunks", where, 1)
        if len(shape) != len(chunks):
            raise UserError(f"{where}: chunks: expected {len(shape)} numbers as in shape, got {len(chunks)}")
        decoders = [_codec(c, where) for c in (meta.get("compressor"), *reversed(meta.get("filters") or [])) if c]
        stored = self._chunks(name, len(shape), meta.get("dimension_separator", "."), where)
        on_disk = sum(self._files[file] for file, _ in stored)
        check_fits(math.prod(shape) * dtype.itemsize, on_disk, where, MAX_RATIO, ALWAYS_BYTES)
        check_memory(math.prod(shape) * dtype.itemsize, where)
        chunk_bytes = math.prod(chunks) * dtype.itemsize
        array = np.full(shape, meta.get("fill_value") or 0, dtype)
        for file, index in stored:
            if any(i * c >= n for i, c, n in zip(index, chunks, shape, strict=True)):
                continue  # left over from before the array was made smaller
            check_fits(chunk_bytes, self._files[file], f"{where}: chunk {index}", MAX_RATIO, ALWAYS_BYTES)
            check_memory(chunk_bytes, where)
            data: Any = self._get(file)
            for codec in decoders:
                data = _decoded(codec, data, chunk_bytes)
            values = np.frombuffer(np.ascontiguousarray(data), dtype)
            if values.size != math.prod(chunks):
                key = ".".join(map(str, index))
                raise UserError(f"{where}: chunk {key}: expected {math.prod(chunks)} numbers, got {values.size}")
            at = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, chunks, shape, strict=True))
            array[at] = values.reshape(chunks, order=meta.get("order", "C"))[tuple(slice(s.stop - s.start) for s in at)]
        return array

    def _chunks(self, name: str, dims: int, separator: Any, where: str) -> list[tuple[str, tuple[int, ...]]]:
        """(file, index) of the stored chunks of an array. Those of nothing but the fill value are not stored."""
        if separator not in (".", "/"):
            raise UserError(f"{where}: expected the dimension_separator '.' or '/', got {separator!r}")
        key = re.escape(separator).join([r"(\d{1,18})"] * dims) if dims else "0"
        pattern = re.compile(re.escape(f"{name}/") + key)
        matches = ((file, pattern.fullmatch(file)) for file in self._files)
        return [(file, tuple(map(int, found.groups()))) for file, found in matches if found]


def _sizes(meta: dict[str, Any], key: str, where: str, least: int) -> tuple[int, ...]:
    """The sizes in `meta[key]`. Raises `UserError` for anything but a list of whole numbers from `least` on."""
    found = meta.get(key)
    if not isinstance(found, list) or not all(isinstance(n, int) and least <= n < 2**62 for n in found):
        raise UserError(f"{where}: {key}: expected whole numbers from {least} on, got {str(found)[:80]}")
    return tuple(found)


def _decoded(codec: Any, data: Any, most: int) -> Any:
    """The decoded bytes of a chunk, which may be `most` at most."""
    stoppable = _STOPPABLE.get(codec.codec_id)
    if stoppable is not None:
        return stoppable().decompress(bytes(data), most + 1)
    declared = _declared_bytes(codec.codec_id, bytes(data[:18]))
    if declared is not None and declared > most:
        raise ValueError(f"a chunk of {declared} bytes where {most} are expected")
    if declared is None and codec.codec_id == "zstd":
        return codec.decode(data, out=np.zeros(most, np.uint8))
    return codec.decode(data)


def _declared_bytes(codec: str, start: bytes) -> int | None:
    """How many bytes a chunk says it decodes to; None for codecs that keep the size, and where it does not say."""
    if codec == "blosc":
        return int.from_bytes(start[4:8], "little")
    if codec == "lz4":
        return int.from_bytes(start[:4], "little")
    if codec != "zstd" or len(start) < 6:
        return None
    flags = start[4]  # RFC 8878, 3.1.1.1
    single = flags >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    length = ((1 if single else 0), 2, 4, 8)[flags >> 6]
    return int.from_bytes(start[at : at + length], "little") + 256 * (length == 2) if length else None


def _codec(config: Any, where: str) -> Any:
    (numcodecs,) = require_extra(where, "zarr", "numcodecs")
    if not isinstance(config, dict) or config.get("id") not in CODECS:
        got = config.get("id") if isinstance(config, dict) else config
        raise UserError(f"{where}: expected one of the codecs {', '.join(CODECS)}, got {got!r}")
    return numcodecs.get_codec(config)
