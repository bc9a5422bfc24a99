"""Files of rows of numbers, with a header: written whole or not at all, and read as far as they are sound."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from jaxtyping import Float

from lesde_infer.cache_folder import UNFINISHED

MAGIC = b"lesde rows 1\n"
NUMBER = 8  # bytes


class RowFile:
    """A file that is there: a line that says what it is, one of JSON, rows, and a few vectors by number.

    Attributes
    ----------
    header : dict
        What it was written with.
    n_rows : int
        Rows that it holds, by its header.

    Raises
    ------
    OSError, ValueError
        If there is none, or it is damaged in its header.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            if self._file.readline(len(MAGIC)) != MAGIC:
                raise ValueError(f"{path}: not a file of rows")
            line = self._file.readline()
            outer = json.loads(line[9:])
            if f"{crc32(line[9:]):08x} ".encode() != line[:9]:
                raise ValueError(f"{path}: damaged in its header")
        except BaseException:
            self._file.close()
            raise
        self.header: dict[str, Any] = outer["header"]
        self.n_rows: int = outer["n_rows"]
        self._width: int = outer["width"]
        self._vectors = {number: place for place, number in enumerate(outer["vectors"])}
        self._length: int = outer["length"]
        self._start = self._file.tell()

    def rows(self) -> Iterator[Float[np.ndarray, " number"]]:
        """Yield rows up to the first that is damaged."""
        for number in range(self.n_rows):
            row = self._numbers(number * (self._width + 1), self._width)
            if row is None:
                return
            yield row

    def vector(self, number: int) -> Float[np.ndarray, " entry"] | None:
        """Return a vector, or None where there is none of this number or it is damaged."""
        if number not in self._vectors:
            return None
        before = self.n_rows * (self._width + 1) + self._vectors[number] * (self._length + 1)
        return self._numbers(before, self._length)

    def _numbers(self, before: int, count: int) -> Float[np.ndarray, " number"] | None:
        """Read numbers behind so many others, with the checksum that follows them; None where that is another."""
        self._file.seek(self._start + NUMBER * before)
        data = self._file.read(NUMBER * (count + 1))
        if len(data) < NUMBER * (count + 1) or crc32(data[:-NUMBER]) != int.from_bytes(data[-NUMBER:], "little"):
            return None
        return np.frombuffer(data[:-NUMBER], dtype="<f8")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RowWriter:
    """Writes a file of rows; it appears when it is finished, in place of any that was there.

    Raises
    ------
    OSError
        Here and in all methods, where the disk is full or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows, self._vectors = (tempfile.TemporaryFile(dir=path.parent) for _ in range(2))  # noqa: SIM115
        self._n_rows = self._width = self._length = 0
        self._numbers: list[int] = []

    def add_row(self, row: Float[np.ndarray, " number"]) -> None:
        """Add a row; all have one length."""
        self._n_rows, self._width = self._n_rows + 1, len(row)
        self._rows.write(_summed(row))

    def add_vector(self, number: int, vector: Float[np.ndarray, " entry"]) -> None:
        """Add a vector; all have one length."""
        self._numbers.append(number)
        self._length = len(vector)
        self._vectors.write(_summed(vector))

    def finish(self, header: dict[str, Any]) -> None:
        """Put the file in its place."""
        outer = {"header": header, "n_rows": self._n_rows, "width": self._width}
        outer |= {"vectors": self._numbers, "length": self._length}
        line = json.dumps(outer).encode() + b"\n"
        descriptor, name = tempfile.mkstemp(suffix=UNFINISHED, dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(MAGIC + f"{crc32(line):08x} ".encode() + line)
                for part in (self._rows, self._vectors):
                    part.seek(0)
                    shutil.copyfileobj(part, file, 2**20)
            os.replace(name, self._path)
        except BaseException:
            os.unlink(name)
            raise

    def close(self) -> None:
        """Give up what is not finished."""
        for part in (self._rows, self._vectors):
            try:
                part.close()
            except OSError:  # what is buffered finds no room
                part.close()


def _summed(numbers: Float[np.ndarray, " number"]) -> bytes:
    data = np.ascontiguousarray(numbers, dtype="<f8").tobytes()
    return data + crc32(data).to_bytes(NUMBER, "little")
