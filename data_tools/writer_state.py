"""Tell whether whoever writes a recording has finished, is still at work, or died.

HDF5 marks a file while it is written to, and takes the mark off when the file is closed. A writer of ours also holds an
advisory lock on its file for as long as its process lives; the system lets go of it when the process dies, whatever the
cause. The lock is of the kind that HDF5 itself takes to read, so readers are not kept out.
"""

import os
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from data_tools.unfinished_hdf5 import read_superblock

if sys.platform != "win32":  # where nothing can be said
    import fcntl

WriterState: TypeAlias = Literal["finished", "writing", "died", "unknown"]
"""Of a file: closed; open, and its writer at work; open, though its writer is gone; open, and no more can be told."""


def writer_state(path: Path) -> WriterState:
    """Tell what became of the writer of an HDF5 file that exists."""
    superblock = read_superblock(path)
    if superblock is None or not superblock.is_open:
        return "finished"
    alive = _is_held(path)
    return "unknown" if alive is None else "writing" if alive else "died"


def hold_writer_lock(path: Path) -> int | None:
    """Lock a file as its writer.

    Returns
    -------
    int or None
        A file descriptor: closing it lets go of the lock. None if the file system knows no locks.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_held(path: Path) -> bool | None:
    """Tell whether a writer holds a file; None if the file system knows no locks."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)
