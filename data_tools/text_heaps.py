"""Look at the places where an HDF5 file keeps its text before HDF5 does, as it may read one that is damaged for ever.

Text of variable length is kept in *global heaps*: a header, then objects one after another, each of which says how long
it is. No checksum guards them, and HDF5 goes from object to object without looking whether it comes ahead.
"""

import struct
from pathlib import Path

from data_tools.errors import InputError

_HEADER = struct.Struct("<4sB3xQ")  # signature, version, size with the header
_OBJECT = struct.Struct("<HHxxxxQ")  # index (0: free space), references, size (of free space: with this)
_START = b"GCOL\x01\0\0\0"
_SEARCHED = 16 * 2**20  # bytes; attributes are written before any record


def refuse_endless_heaps(path: Path) -> None:
    """Refuse a file with a heap that never ends, or an object that ends outside its heap, in its first 16 MiB.

    Raises
    ------
    InputError
        If there is one.
    """
    # Read, not mapped into memory: a mapped file that shrinks, or has holes on a full disk, takes the process down.
    with path.open("rb") as stream:
        content = stream.read(_SEARCHED)
    place = content.find(_START)
    while place >= 0:
        if not _ends(content, place):
            raise InputError(f"{path}: damaged, the place where its text is kept cannot be read; copy it again")
        place = content.find(_START, place + 1)


def _ends(content: bytes, start: int) -> bool:
    """Tell whether the objects of a heap lead to its end; what lies beyond the bytes at hand is not looked at."""
    if start + _HEADER.size > len(content):
        return True
    _, _, size = _HEADER.unpack_from(content, start)
    end = start + size
    place = start + _HEADER.size
    while place + _OBJECT.size <= min(end, len(content)):
        index, _, length = _OBJECT.unpack_from(content, place)
        if index == 0 and length < _OBJECT.size:
            return False
        place += length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
        if place > end:
            return False
    return True
