"""Tell whether a file still holds the records it held, without reading all of it.

A recording that is only read has the same device, inode, size, and times of its last change, of which that of the
system (ctime) cannot be set back: then it holds what it held. One that is being recorded grows: then it is the same
file if inode and samples of its records are the same, the last of them among these. Anything else is taken to have
changed, a copy as well.
"""

import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.recording import Recording

SAMPLED = 16  # records
SAMPLED_BYTES = 2**20  # of each
SETTLED = 2.0  # seconds since the last change, within which another may have the same time


def file_state(path: Path) -> list[int] | None:
    """Return size and times of a file; None where it changed so recently that another change might not show."""
    found = path.stat()
    settled = time.time() - found.st_ctime > SETTLED
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns] if settled else None


def identity(recording: Recording, layers: list[str], n_records: int, state: list[int] | None) -> dict[str, Any]:
    """Return what identifies the first records of an open recording: plain numbers and texts.

    ``state`` is that of its file before they were read.
    """
    records = np.unique(np.linspace(0, n_records - 1, min(SAMPLED, n_records)).round().astype(int)).tolist()
    return {
        "file": _file(recording.path),
        "state": state,
        "n_recorded": recording.n_records,
        "n_records": n_records,
        "fixed": fixed_digest(recording, n_records),
        "samples": {str(record): _sample(recording, layers, record) for record in records},
    }


def fixed_digest(recording: Recording, n_records: int) -> str:
    """Return a digest of the classes of all samples and of the steps of the first records."""
    found = blake2b(digest_size=16)
    for part in (recording.labels, recording.given_labels, recording.steps[:n_records]):
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def is_same(recording: Recording, layers: list[str], kept: dict[str, Any]) -> bool:
    """Tell whether a recording starts with the records that an identity was taken of."""
    state, n_records = file_state(recording.path), kept["n_records"]
    untouched = state is not None and state == kept["state"]
    grown = recording.n_records > kept["n_recorded"]
    if not (untouched or grown) or _file(recording.path) != kept["file"] or recording.n_records < n_records:
        return False
    now = identity(recording, layers, n_records, state)
    return now["fixed"] == kept["fixed"] and now["samples"] == kept["samples"]


def _file(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_dev, found.st_ino]


def _sample(recording: Recording, layers: list[str], record: int) -> str:
    """Return a digest of the first samples of a record."""
    found = blake2b(digest_size=16)
    for layer in layers:
        array = recording.features(layer)
        rows = max(1, SAMPLED_BYTES // (array.shape[2] * array.dtype.itemsize))
        found.update(np.ascontiguousarray(array[record, :rows]).tobytes())
    if recording.classifier is not None:
        found.update(np.ascontiguousarray(recording.classifier.weight[record]).tobytes())
    return found.hexdigest()
