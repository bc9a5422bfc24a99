"""Keep HDF5 from harming a file it is writing: when the disk fails, and in processes that were forked.

HDF5 writes what it still holds in memory when a file is closed, at the latest when the process ends. After a write has
failed it then fails again and may take the process down; in a forked process it would mark a file as finished that its
parent is still writing. In both cases the file is cut off: HDF5 goes on with an empty file in memory in its stead.
"""

import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_tools.writer_state import hold_writer_lock


class WriterGuard:
    """Hold the lock of the writer of a file, and cut the file off where it has to be.

    Parameters
    ----------
    file
        The `h5py.File`, open for writing.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._descriptor = int(file.id.get_vfd_handle())
        self._lock: int | None = None
        _guards.add(self)

    def lock(self, path: Path) -> None:
        """Show that the file at `path` has a writer, once HDF5 itself no longer locks it against readers."""
        self._lock = hold_writer_lock(path)

    def cut_off(self) -> None:
        """Let the file on disk be as it is now, and close it for HDF5."""
        self._lead_elsewhere()
        with suppress(OSError, RuntimeError):
            self._file.close()
        self.release()

    def release(self) -> None:
        """Let go of the lock, once the file is closed."""
        _guards.discard(self)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def leave_to_parent(self) -> None:
        """Give the file up in a forked process; its parent keeps file and lock."""
        self._lead_elsewhere()
        self.release()

    def _lead_elsewhere(self) -> None:
        in_memory = hasattr(os, "memfd_create")
        with open(os.memfd_create("hdf5"), "wb") if in_memory else tempfile.TemporaryFile() as empty:
            os.dup2(empty.fileno(), self._descriptor, inheritable=False)


_guards: "weakref.WeakSet[WriterGuard]" = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for guard in list(_guards):
        guard.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
