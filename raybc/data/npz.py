"""npz files, and what files that libraries read have in common: first bytes, and one kind of error for any damage.

Needs neither HDF5 nor torch.
"""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raybc import causes
from raybc.data.bounds import check_fits, check_memory, size
from raybc.types import UserError

ZIP_MAGIC = b"PK\x03\x04"


def magic(path: Path, count: int = 8) -> bytes:
    """The first `count` bytes of a file; b"" where there is none."""
    return causes.head(path, count)


@contextlib.contextmanager
def readable(path: Path, what: str, kind: bytes = b"") -> Iterator[None]:
    """Turns whatever libraries raise for truncated or damaged files, which depends on the bytes that are damaged, into
    `UserError`. Where the cause is another than damage (`raybc.causes`), the message names that.

    what: the kind of file, for messages. kind: its first bytes.
    """
    try:
        yield
    except UserError:
        raise
    except (
        *(OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
        *(MemoryError, EOFError, NotImplementedError, AssertionError, zlib.error, zipfile.BadZipFile),
        tokenize.TokenError,  # numpy, of a damaged header
    ) as error:
        cause = causes.cause(path, error, kind)
        if cause:
            raise UserError(f"{path}: {cause}") from None
        raise UserError(f"{path}: not readable as {what} (damaged or truncated){_said(error)}") from None


def _said(error: BaseException) -> str:
    """What a library says about a file; nothing where it is Python that complains, in words that help nobody."""
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
        return f": {text}" if text.startswith("Unable") else f": expected the key {text!r}"
    if isinstance(error, LookupError | TypeError | AttributeError | AssertionError | RecursionError):
        return ""
    text = " ".join(str(error).split())
    return f": {text}" if text else ""


class Npz:
    """The arrays of an npz file, by name, each read on access. Python objects are refused, never unpickled.

    Raises `UserError` for missing and damaged files and arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        causes.expect_file(path, "an npz file")
        if magic(path, 4) != ZIP_MAGIC:
            raise UserError(f"{path}: {causes.cause(path, kind=ZIP_MAGIC) or 'expected an npz file, got another'}")
        with readable(path, "npz", ZIP_MAGIC):
            self._file = np.load(path, allow_pickle=False)
            self.names = set(self._file.files)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise UserError(f"{self.path}: expected the array {name!r}, got {sorted(self.names)}")
        with readable(self.path, "npz", ZIP_MAGIC):
            self._check_size(name)
            try:
                array = self._file[name]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                expected = "expected numbers, got Python objects (they are never unpickled)"
                raise UserError(f"{self.path}: {name}: {expected}") from None
            if not isinstance(array, np.ndarray):  # a member that is no .npy
                raise UserError(f"{self.path}: {name}: expected an array, got {type(array).__name__}")
            return array

    def _check_size(self, name: str) -> None:
        """Compare what the header of an array declares with its bytes: numpy allocates first and reads afterwards."""
        where, archive = f"{self.path}: {name}", self._file.zip
        member = name if name in archive.NameToInfo else f"{name}.npy"
        info = archive.getinfo(member)
        check_fits(info.file_size, info.compress_size, where)
        with archive.open(member) as handle:
            version = np.lib.format.read_magic(handle)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(handle)
        declared = math.prod(shape) * dtype.itemsize
        if declared > info.file_size and not dtype.hasobject:
            raise UserError(f"{where}: damaged: declares {size(declared)}, and holds {size(info.file_size)}")
        check_memory(declared, where)


def npz_names(path: Path) -> set[str]:
    """The names of the arrays of an npz file; an empty set for other or damaged files."""
    if magic(path, 4) != ZIP_MAGIC:
        return set()
    try:
        return Npz(path).names
    except UserError:
        return set()
