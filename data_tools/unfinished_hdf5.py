"""Read HDF5 files that were never closed, because their writer died.

HDF5 marks a file in its first block, the superblock, while it is written to, and then opens it for reading in
single-writer mode only. In that mode a damaged block is read again and again, with pauses that double a hundred times,
which is for ever. Here the file is shown to HDF5 with the mark taken off, so that damage is reported at once. Nothing
is written to the file.
"""

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from data_tools.errors import InputError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIZE = 48  # bytes of a superblock of version 3 whose addresses take 8 bytes
_FLAGS, _END_OF_FILE, _CHECKSUM = 11, 28, 44  # offsets in it
_OPEN_FOR_WRITING = 1


@dataclass(frozen=True)
class Superblock:
    """What the first bytes of a file of HDF5 1.10 and later say.

    Attributes
    ----------
    content
        The bytes.
    is_open
        Whether a writer has opened the file and not closed it.
    """

    content: bytes
    is_open: bool

    def finished(self, size: int) -> bytes:
        """Return the superblock of the same file if it had been closed with `size` bytes."""
        changed = bytearray(self.content)
        changed[_FLAGS] = 0
        struct.pack_into("<Q", changed, _END_OF_FILE, size)
        struct.pack_into("<I", changed, _CHECKSUM, _lookup3(bytes(changed[:_CHECKSUM])))
        return bytes(changed)


def read_superblock(path: Path) -> Superblock | None:
    """Read the superblock of a file; None if it has an older one, or it is damaged."""
    with path.open("rb") as stream:
        content = stream.read(_SIZE)
    if len(content) < _SIZE or content[:8] != _SIGNATURE or content[8:11] != b"\x03\x08\x08":
        return None
    if struct.unpack_from("<I", content, _CHECKSUM)[0] != _lookup3(content[:_CHECKSUM]):
        return None
    return Superblock(content, bool(content[_FLAGS] & _OPEN_FOR_WRITING))


def open_as_finished(path: Path, superblock: Superblock) -> Any:
    """Open a file that was never closed for reading, as if it had been closed as it is now.

    Returns
    -------
    h5py.File
        Open in mode ``r``.

    Raises
    ------
    InputError
        If what its writer left cannot be opened.
    """
    try:
        return h5py.File(_FinishedView(path, superblock), "r")
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: its writer died before anything was safe on disk ({reason}); record again"
        ) from error


class _FinishedView(io.RawIOBase):
    """The bytes of a file, with the superblock that it would have had."""

    def __init__(self, path: Path, superblock: Superblock) -> None:
        self._stream = path.open("rb", buffering=0)
        self._size = os.fstat(self._stream.fileno()).st_size
        self._head = superblock.finished(self._size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            position = self._position + done
            if position < len(self._head):
                piece = self._head[position : position + len(view) - done]
            else:
                self._stream.seek(position)
                piece = self._stream.read(len(view) - done) or b""
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
        view[done:] = bytes(len(view) - done)  # HDF5 takes what lies beyond the end to be zero
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _lookup3(data: bytes) -> int:
    """Return Bob Jenkins' hash ``lookup3`` of some bytes, with which HDF5 guards its metadata."""
    word = 0xFFFFFFFF

    def rotated(value: int, count: int) -> int:
        return (value << count | value >> (32 - count)) & word

    a = b = c = (0xDEADBEEF + len(data)) & word
    padded = data + bytes(-len(data) % 12)
    for place in range(0, len(padded), 12):
        x, y, z = struct.unpack_from("<III", padded, place)
        a, b, c = (a + x) & word, (b + y) & word, (c + z) & word
        if place + 12 == len(padded):
            break
        for count in (4, 6, 8, 16, 19, 4):
            a, b, c = b, (c + b) & word, (a - c & word) ^ rotated(c, count)
    for count in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, (c ^ b) - rotated(b, count) & word, a
    return b
