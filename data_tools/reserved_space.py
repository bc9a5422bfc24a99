"""Reserve room on disk before HDF5 writes, since a write of HDF5 that fails crashes the interpreter when it exits."""

import errno
import os
import shutil
import struct
from pathlib import Path
from typing import Any

from data_tools.errors import InputError

KEPT_FREE = 16 * 2**20
"""Bytes on the disk that recordings leave to others."""

_AHEAD = 2**20  # bytes: so much is reserved at once
_OVERHEAD = 2**20  # bytes: HDF5's indexes may grow by less with one record
_CAN_RESERVE = hasattr(os, "posix_fallocate")
_DISK_FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
_SUPERBLOCK = struct.Struct("<8sB3x8x8xQ")  # signature, version, …, end of file


class ReservedSpace:
    """Room at the end of a file that HDF5 is writing.

    Parameters
    ----------
    file
        The open `h5py.File`.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._end = 0

    def ask(self, n_bytes: int, path: Path) -> None:
        """Make sure that so much more can be written.

        Parameters
        ----------
        n_bytes
            What will be added.
        path
            Where the file is now.

        Raises
        ------
        InputError
            If the disk, a quota or a limit on the size of files does not allow it.
        """
        needed = 2 * n_bytes + _OVERHEAD
        if shutil.disk_usage(path.parent).free < 2 * n_bytes + KEPT_FREE:
            raise InputError(f"{path}: the disk is full; {_MEND}")
        size = self._file.id.get_filesize()
        end = size + needed
        if end <= self._end or not _CAN_RESERVE:
            return
        for reserve in (end + _AHEAD, end):
            try:
                os.posix_fallocate(self._file.id.get_vfd_handle(), size, reserve - size)
                self._end = reserve
                return
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    return  # the file system cannot reserve room, and free space is all that can be known
                reason = os.strerror(error.errno)
        raise InputError(f"{path}: cannot grow ({reason}); {_MEND}")


_MEND = "what was recorded is safe; make room, or record less often, fewer layers or fewer samples"


def close_and_cut(file: Any) -> None:
    """Close a file that HDF5 wrote, and cut off what was reserved and not needed."""
    if not _CAN_RESERVE:
        file.close()
        return
    # By descriptor, not by name: another file may have the name by now.
    descriptor = os.dup(file.id.get_vfd_handle())
    try:
        file.close()
        signature, version, end = _SUPERBLOCK.unpack(os.pread(descriptor, _SUPERBLOCK.size, 0))
        if signature == b"\x89HDF\r\n\x1a\n" and version in (2, 3) and 0 < end < os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, end)
    finally:
        os.close(descriptor)
