"""Is this the recording that was fitted? What is refused before a run is simulated again."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.separability import class_means
from lesde_infer.snapshots import Grouping, present_samples, read_record
from lesde_infer.time_axis import time_axis

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

MEND = "give the recording that was fitted"


def require_all_outputs(recording: Recording, n_classes: int, group: Grouping) -> None:
    """Raise InputError where a grouping lacks a class that the network tells apart, which residuals need to move."""
    if recording.n_classes != n_classes:
        raise InputError(
            f"{recording.path}: the network has {recording.n_classes} outputs, but /{group} holds {n_classes} "
            "classes; to replicate this run record samples of each class, or fit impact I"
        )


def check_same_run(fit: "Fit", recording: Recording, labels: Int[np.ndarray, " sample"]) -> None:
    """Refuse a recording whose samples, classes or records are not those of the fit; later records may follow.

    A reduced recording is judged by the labels and class means of all of its samples.
    """
    if recording.is_reduced:
        labels = recording.probe_labels(fit.settings.group)
    recording.features(fit.settings.layer)  # a layer that is missing is named
    classes, sizes = np.unique(labels, return_counts=True)
    for name, found, fitted in (
        ("classes", len(classes), fit.n_classes),
        *((f"samples of class {name}", *both) for name, *both in zip(classes, sizes, fit.class_sizes, strict=False)),
        ("records", min(recording.n_records, len(fit.steps)), len(fit.steps)),
    ):
        if found != fitted:
            raise InputError(f"{recording.path}: holds {found} {name}, but {fitted} were fitted; {MEND}")
    times = time_axis(recording, fit.settings.time).times
    for name, values, expected in (("step", recording.steps, fit.steps), ("time", times, fit.times)):
        different = np.flatnonzero(values[: len(expected)] != expected)
        if different.size:
            at = different[0]
            raise InputError(f"{recording.path}: {name} {values[at]} at record {at}, not {expected[at]}; {MEND}")
    _, groups = np.unique(labels, return_inverse=True)
    layers = {fit.settings.layer, recording.logits if fit.settings.impact == "R" else fit.settings.layer}
    kept = recording.reduced(fit.settings.layer, None, fit.settings.group) if recording.is_reduced else None
    for interval in (0, len(fit.movement) - 1):
        record = int(fit.interval_starts[interval])
        if kept is not None:
            _require_movement(fit, recording, interval, *kept.class_means[record : record + 2])
            continue
        ends = [read_record(recording, fit.settings.layer, record + place) for place in (0, 1)]
        common = np.all(
            [
                present_samples(read_record(recording, layer, record + place))
                for layer in layers
                if layer is not None
                for place in (0, 1)
            ],
            axis=0,
        )
        held = np.bincount(groups[common], minlength=fit.n_classes)
        means = [np.full((fit.n_classes, values.shape[1]), np.nan) for values in ends]
        if held.min() > 0:
            means = [class_means(values[common], groups[common], fit.n_classes) for values in ends]
        _require_movement(fit, recording, interval, *means)


def _require_movement(
    fit: "Fit",
    recording: Recording,
    interval: int,
    before: Float[np.ndarray, "class_ feature"],
    after: Float[np.ndarray, "class_ feature"],
) -> None:
    """Refuse class means whose contrasts move otherwise over a fitted interval than they did in the fitted run."""
    moved = ((after - before - (after - before).mean(axis=0)) ** 2).sum()
    if not np.isclose(moved, fit.movement[interval], rtol=1e-6):
        raise InputError(
            f"{recording.path}: features move otherwise after step {fit.steps[fit.interval_starts[interval]]} than "
            f"they did in the run that was fitted; {MEND}"
        )
