"""Write a recording in a thread of its own, so that training does not wait for the disk."""

import atexit
import os
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from data_tools.elasticity_records import ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.recording_writer import RecordingWriter

_Work = Callable[[], None]

# Held while a record is written, and while the process forks: a child must not get a half-written file in its memory,
# which HDF5 would write out when the child exits. (Hooks run last to first: h5py's, for its own lock, was registered
# before, so that its lock is free while this one is waited for.)
_writing = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release)


class BackgroundWriter:
    """Take what a `RecordingWriter` takes, and have it written by a thread.

    At most `queue_length` records wait; when there are more, whoever adds one waits too, so that none is dropped and
    memory stays bounded. A record is safe on disk once the thread has written it, or after `flush` or `close`. After an
    error nothing more is written; what was committed before stays readable.

    Parameters
    ----------
    writer
        The writer; nobody else may use it from now on.
    queue_length
        Records and measurements that may wait.

    Attributes
    ----------
    error : Exception or None
        What went wrong in the thread; the next `append`, `flush` or `close` raises it.
    """

    def __init__(self, writer: RecordingWriter, queue_length: int = 4) -> None:
        self._writer = writer
        self._waiting: queue.Queue[_Work | None] = queue.Queue(queue_length)
        self._process = os.getpid()
        self._told_to_end = False
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name=f"writer of {writer.path.name}", daemon=True)
        self._thread.start()
        # At exit Python stops such threads wherever they are, so a recorder that was never left is finished before.
        atexit.register(self._finish)

    def append(self, step: int, *arguments: Any, **options: Any) -> None:
        """Add a record, see `RecordingWriter.append`; the arrays must not be changed any more.

        Raises
        ------
        InputError
            If the process was forked after the writer was made.
        Exception
            What went wrong with an earlier record.
        """
        self._put(partial(self._writer.append, step, *arguments, **options))

    def append_elasticity(self, snapshot: ElasticitySnapshot) -> None:
        """Add a measurement of elasticity, see `RecordingWriter.append_elasticity`.

        Raises
        ------
        InputError, Exception
            As `append`.
        """
        self._put(partial(self._writer.append_elasticity, snapshot))

    def flush(self) -> None:
        """Wait until everything so far is safe on disk.

        Raises
        ------
        InputError, Exception
            As `append`; also if it went wrong just now.
        """
        self._check_process()
        if not self._told_to_end:
            self._waiting.join()
        self._raise_error()

    def close(self) -> None:
        """Write what waits, and close the file; closing again, or in a forked process, does nothing.

        Raises
        ------
        Exception
            What went wrong and was not raised yet.
        """
        if os.getpid() == self._process:
            self._finish()
            self._raise_error()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InputError(f"{self._writer.path}: was opened by another process; open it in the process that records")

    def _put(self, work: _Work) -> None:
        self._check_process()
        self._raise_error()
        if self._told_to_end:
            raise InputError(f"{self._writer.path}: is closed; make a new recorder")
        self._waiting.put(work)

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def _finish(self) -> None:
        if os.getpid() != self._process:
            return
        if not self._told_to_end:
            self._waiting.put(None)
            self._told_to_end = True
        self._thread.join()
        atexit.unregister(self._finish)

    def _write(self) -> None:
        while (work := self._waiting.get()) is not None:
            if self.error is None:
                self._try(work)
            self._waiting.task_done()
        self._try(self._writer.close)

    def _try(self, work: _Work) -> None:
        try:
            with _writing:
                work()
        except Exception as error:  # whatever it is, whoever trains has to hear of it, and decides
            self.error = self.error or error
