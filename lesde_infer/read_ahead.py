"""Records of a recording, the next of them being read while one is worked on.

HDF5 reads without Python's lock, so that reading goes on beside what NumPy computes. Memory is used again: of each
layer there are two records and that which is being read, whatever the length of the file.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Int

from data_tools.record_series import entry_bytes
from data_tools.recording import RecordedClassifier, Recording

WORTHWHILE = 2**20  # bytes of a record, below which to wake the thread takes longer than to read
HELD = 3  # records: two between which an interval lies, and that which is being read


class _Ahead:
    """An array of a recording, whose records are read in order."""

    def __init__(self, array: Any, n_records: int, reader: ThreadPoolExecutor) -> None:
        self._array, self._n_records, self._reader = array, n_records, reader
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self._memory = [np.empty(self.shape[1:], self.dtype) for _ in range(min(HELD, n_records))]
        self._coming: dict[int, Future[np.ndarray]] = {}

    def __getitem__(self, record: int) -> np.ndarray:
        """Return a record, which is overwritten when the record `HELD` − 1 after it is asked for; start the next."""
        found = self._coming.pop(record) if record in self._coming else self._start(record)
        result = found.result()
        if record + 1 < self._n_records:
            self._coming = {record + 1: self._start(record + 1)}
        return result

    def _start(self, record: int) -> Future[np.ndarray]:
        return self._reader.submit(self._array.read_into, record, self._memory[record % HELD])


class ReadAhead:
    """What `lesde_infer.snapshots` reads of a recording; a context manager, which ends with the thread that reads.

    Parameters
    ----------
    recording : Recording
        Stays open throughout.
    n_records : int
        Records that are read.
    """

    def __init__(self, recording: Recording, n_records: int) -> None:
        self._recording, self._n_records = recording, n_records
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lesde-reader")
        self._layers: dict[str, Any] = {}
        self.path, self.steps = recording.path, recording.steps
        self.labels, self.given_labels = recording.labels, recording.given_labels
        self.n_classes, self.logits = recording.n_classes, recording.logits
        self.class_frequencies = recording.class_frequencies
        self.classifier: Any = None
        if recording.classifier is not None:
            found = recording.classifier
            self.classifier = RecordedClassifier(self._ahead(found.weight), found.bias, found.layer)

    def features(self, layer: str) -> Any:
        """Return the features of a layer."""
        if layer not in self._layers:
            self._layers[layer] = self._ahead(self._recording.features(layer))
        return self._layers[layer]

    def _ahead(self, array: Any) -> Any:
        return _Ahead(array, self._n_records, self._reader) if entry_bytes(array) >= WORTHWHILE else array

    def probe_labels(self, group: Literal["labels", "given_labels"]) -> Int[np.ndarray, " sample"]:
        """Return the classes of all samples."""
        return self._recording.probe_labels(group)

    def check_finite(self, layer: str, until: int | None = None) -> Any:
        """Refuse what no model can be fitted to (`data_tools.Recording.check_finite`)."""
        return self._recording.check_finite(layer, until)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
