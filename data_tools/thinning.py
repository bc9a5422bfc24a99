"""Keep some records of a recording: what a run would have left had it been recorded less often."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.record_array import RecordArray
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording


class _ChosenRecords:
    """Some records of an array, read as they are indexed."""

    def __init__(self, array: RecordArray, records: Int[np.ndarray, " kept"]) -> None:
        self._array, self._records = array, records
        self.shape = (len(records), *array.shape[1:])
        self.ndim, self.dtype = len(self.shape), array.dtype

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, record: int) -> Float[np.ndarray, "..."]:
        return np.asarray(self._array[int(self._records[record])])


def thin_recording(
    recording: Recording,
    out: str | os.PathLike[str],
    records: Sequence[int] | Int[np.ndarray, " kept"],
    *,
    force: bool = False,
) -> Path:
    """Write a recording of some records of another, as if only these had been taken.

    Samples, layers, logits, classifier, scalars, sampling frequencies and provenance are kept. Elasticity that was
    measured directly is not: it is of the run, not of its records, and stays with the recording it was measured for.

    Parameters
    ----------
    recording
        An open recording.
    out
        File to make.
    records
        Increasing indices of the records to keep, from 0 to T − 1.
    force
        Replace an existing file.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        If there are no records to keep, they do not exist or do not increase, or the file exists.
    """
    chosen = np.asarray(records)
    if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
        raise InputError("records: give the indices of the records to keep, at least one")
    if chosen[0] < 0 or chosen[-1] >= recording.n_records or np.any(np.diff(chosen) <= 0):
        raise InputError(
            f"records: indices must increase from 0 to {recording.n_records - 1} at most; {recording.path} holds "
            f"{recording.n_records} records"
        )
    classifier = None
    if recording.classifier is not None:
        arrays = [_ChosenRecords(array, chosen) for array in (recording.classifier.weight, recording.classifier.bias)]
        fed_by = recording.classifier.layer
        classifier = (arrays[0], arrays[1]) if fed_by is None else (arrays[0], arrays[1], fed_by)
    return write_recording(
        out,
        recording.steps[chosen],
        recording.labels,
        {layer: _ChosenRecords(recording.features(layer), chosen) for layer in recording.layers},
        logits=recording.logits,
        given_labels=recording.given_labels,
        class_frequencies=recording.class_frequencies,
        classifier=classifier,
        scalars={name: values[chosen] for name, values in recording.scalars.items()},
        time=recording.time[chosen],
        provenance={**recording.provenance, "records_kept": f"{len(chosen)} of {recording.n_records}"},
        force=force,
    )
