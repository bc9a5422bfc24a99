"""Go on with a reduced recording after training was broken off.

What is kept of an interval is made of the features of all samples at both of its ends, and of the last record a reduced
recording holds those of some. If training is resumed at the step of a record, the network just restored gives them
again: they are taken if those of the samples kept are as recorded, and the recording goes on as if nothing had been.
Otherwise the interval between the last record and the next is unknown. It is marked by zeros, over no samples, and fits
go on with the others (`lesde_infer.missing`).

tests/lesde_infer/test_resumed_reduction.py holds resumed recordings against those that were not broken off.
"""

import numpy as np

from data_tools.record_taking import Record
from data_tools.recording import Recording
from data_tools.reduced_records import ReducedLayout, Reducer

ROUNDINGS = 100.0
"""Resolutions of the stored type, times the largest feature of a layer, by which features computed again may differ."""


def reduction_differences(then: ReducedLayout | None, now: ReducedLayout | None) -> dict[str, tuple[object, object]]:
    """Return what has to agree where a recording is resumed, as it was and as it is to be, by name."""
    kinds = ("whole" if then is None else "reduced", "whole" if now is None else "reduced")
    if then is None or now is None:
        return {"kind of recording": kinds}
    return {
        "labels of all samples": (then.labels.tolist(), now.labels.tolist()),
        "given labels of all samples": (then.given_labels.tolist(), now.given_labels.tolist()),
        "samples kept": (then.samples.tolist(), now.samples.tolist()),
        "statistics kept": (", ".join(sorted(then.attributes)), ", ".join(sorted(now.attributes))),
        "momentum or directions of statistics": (dict(then.attributes), dict(now.attributes)),
        "shape of statistics": (dict(then.arrays), dict(now.arrays)),
    }


def resume_reduction(recording: Recording, reducer: Reducer, step: int, record: Record) -> str | None:
    """Let a reducer that was started go on behind the last record up to a step; say why an interval is lost, if it is.

    Parameters
    ----------
    recording
        What was recorded before.
    reducer
        Started with what the network gives now.
    step
        Updates of the optimizer that the checkpoint has seen.
    record
        What the network gives now.
    """
    held = recording.reduction()
    assert held is not None  # noqa: S101  (checked by `check_same_run`)
    layout, arrays = held
    last = int(np.searchsorted(recording.steps, step, side="right")) - 1
    reason = _why_unknown(recording, last, step, layout.keep(record.features))
    rows = {name: array[max(last - 1, 0) : last + 1] for name, array in arrays.items()}
    known = (record.features, record.classifier) if reason is None else None
    reducer.go_on(int(recording.steps[last]), known, rows)
    return reason


def _why_unknown(recording: Recording, last: int, step: int, kept: dict[str, np.ndarray]) -> str | None:
    at = int(recording.steps[last])
    if at != step:
        return (
            f"was resumed at step {step}, where there is no record: fits leave out the interval from step {at} on; "
            "save checkpoints at steps that are recorded"
        )
    for layer, values in kept.items():
        stored = recording.features(layer)[last]
        largest, eps = float(np.abs(stored).max()), float(np.finfo(stored.dtype).eps)
        differs = float(np.abs(values - stored).max())
        if not differs <= ROUNDINGS * eps * largest:
            return (
                f"was resumed at step {step}, but features of layer {layer} differ by up to {differs:.2g} from those "
                f"recorded there: fits leave out the interval from step {at} on; restore the checkpoint of that step"
            )
    return None
