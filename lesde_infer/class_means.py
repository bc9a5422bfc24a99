"""Class means of one or several recordings of the same steps: all that estimators from class means read, read once.

Means are over the samples that every record holds, so that they change with the samples and not with who is there;
records that hold none are left out. Needs neither JAX nor SciPy.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.errors import InputError
from data_tools.record_array import RecordArray
from data_tools.recording import Recording

Grouping = Literal["labels", "given_labels"]  # that of lesde_infer.snapshots, which needs JAX
Source: TypeAlias = Recording | str | os.PathLike[str]


@dataclass(frozen=True)
class ClassMeans:
    """Means over the samples of each class, at every record of every run.

    Attributes
    ----------
    steps : array, shape (time,)
        Optimizer steps of the records.
    times : array, shape (time,)
        The same in the recordings' unit of time: optimizer steps, or the cumulative learning rate.
    runs : array, shape (run, time, class, feature)
        Class means of each run.
    resolution : float
        Relative error of a class mean from rounding to the type of number that was stored.
    layer, group : str
        Layer, and grouping into classes.
    source : str
        Where they come from, for messages.
    """

    steps: Int[np.ndarray, " time"]
    times: Float[np.ndarray, " time"]
    runs: Float[np.ndarray, "run time class_ feature"]
    resolution: float
    layer: str
    group: Grouping
    source: str = "class means"

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return self.runs.shape[0]

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return self.runs.shape[2]

    @property
    def n_features(self) -> int:
        """Number of features p."""
        return self.runs.shape[3]


def read_class_means(
    recordings: Source | Sequence[Source],
    layer: str | None = None,
    group: Grouping = "labels",
    *,
    until: int | None = None,
) -> ClassMeans:
    """Read the class means of a layer, in one pass over each recording.

    Parameters
    ----------
    recordings : recording, path, or a sequence of them
        Runs of the same steps, classes and width of the layer. What is given open stays open.
    layer : str, optional
        Layer; the logits by default.
    group : {"labels", "given_labels"}
        Classes by what samples are, or by what they are trained as.
    until : int, optional
        Use records up to this optimizer step.

    Raises
    ------
    InputError
        If a recording cannot be read, lacks the layer, holds values that are damaged
        (`data_tools.Recording.check_finite`), no sample of some class throughout, or fewer than two records or classes;
        or if runs differ in steps, times, classes or width.
    """
    if group not in get_args(Grouping):
        raise InputError(f"group '{group}' is unknown; choose one of {', '.join(get_args(Grouping))}")
    single = isinstance(recordings, Recording | str | os.PathLike)
    sources: list[Source] = [recordings] if single else list(recordings)  # type: ignore[list-item, arg-type]
    if not sources:
        raise InputError("no recording was given; give at least one")
    read: list[tuple[Recording, ClassMeans]] = []
    for source in sources:
        with nullcontext(source) if isinstance(source, Recording) else Recording(source) as recording:
            read.append((recording, _read_run(recording, layer, group, until)))
            _require_alike(*read[0], *read[-1])
    first = read[0][1]
    runs = np.concatenate([means.runs for _, means in read])
    resolution = max(means.resolution for _, means in read)
    source = f"{read[0][0].path}" + (f" and {len(read) - 1} more" if len(read) > 1 else "")
    return ClassMeans(first.steps, first.times, runs, resolution, first.layer, group, source)


def _read_run(recording: Recording, layer: str | None, group: Grouping, until: int | None) -> ClassMeans:
    layer = recording.choose_layer(layer)
    features = recording.features(layer)
    classes, groups = np.unique(recording.probe_labels(group), return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"{recording.path}: /{group} holds one class only, so there is nothing to tell apart; group otherwise "
            "(--group)"
        )
    n_records = recording.n_records if until is None else int(np.searchsorted(recording.steps, until, side="right"))
    if n_records < 2:
        limit = "" if until is None else f" up to step {until}"
        raise InputError(f"{recording.path}: holds {n_records} records{limit}, and change takes two; record more often")
    found: Float[np.ndarray, "time class_ feature"] | None
    if recording.is_reduced:
        found = recording.reduced(layer, None, group).class_means[:n_records]
    else:
        found = _means_over(features, groups, np.ones(len(groups), dtype=bool), np.arange(n_records))
    records = np.arange(n_records)
    if found is None:
        recording.check_finite(layer, until)  # refuses what is damaged, as opposed to missing
        always, records = _held_throughout(features, n_records)
        if np.bincount(groups[always], minlength=len(classes)).min() == 0 or len(records) < 2:
            raise InputError(
                f"{recording.path}: layer {layer}: no sample of some class is held by every record, and estimates from "
                "class means need the same samples throughout; leave out what is missing from the probe"
            )
        found = _means_over(features, groups, always, records)
        assert found is not None  # noqa: S101  (these are finite)
    # Slopes in time are not defined where it stands still: of such records the first is kept.
    moving = np.diff(recording.time[records], prepend=-np.inf) > 0
    records, found = records[moving], found[moving]
    if len(records) < 2:
        raise InputError(f"{recording.path}: no time passes between any two records (learning rate 0?)")
    rounding = float(np.finfo(features.dtype).eps) / np.sqrt(len(groups))
    resolution = max(rounding, 4.0 * float(np.finfo(np.float64).eps))
    return ClassMeans(recording.steps[records], recording.time[records], found[None], resolution, layer, group)


def _means_over(
    features: RecordArray,
    groups: Int[np.ndarray, " sample"],
    samples: Bool[np.ndarray, " sample"],
    records: Int[np.ndarray, " time"],
) -> Float[np.ndarray, "time class_ feature"] | None:
    """Return class means over some samples at some records, or None if one of their features is not finite."""
    chosen = groups[samples]
    average = np.zeros((int(groups.max()) + 1, len(chosen)))
    average[chosen, np.arange(len(chosen))] = 1.0
    average /= average.sum(axis=1, keepdims=True)
    means = np.empty((len(records), len(average), features.shape[2]))
    for place, record in enumerate(records.tolist()):
        values = np.asarray(features[record], dtype=np.float64)[samples]
        if not np.isfinite(values).all():
            return None
        means[place] = average @ values
    return means


def _held_throughout(
    features: RecordArray, n_records: int
) -> tuple[Bool[np.ndarray, " sample"], Int[np.ndarray, " time"]]:
    """Return the samples that every record holds, and the records: those that hold no sample at all are left out."""
    held = np.array([~np.isnan(features[record]).all(axis=1) for record in range(n_records)])
    records = np.flatnonzero(held.any(axis=1))
    return np.logical_and.reduce(held[records]), records


def _require_alike(recording: Recording, means: ClassMeans, other: Recording, others: ClassMeans) -> None:
    """Raise InputError where two runs cannot be averaged."""
    for name, first, second in (
        ("records", len(means.steps), len(others.steps)),
        ("classes", means.n_classes, others.n_classes),
        ("features", means.n_features, others.n_features),
    ):
        if first != second:
            raise InputError(
                f"{other.path}: {second} {name}, but {recording.path} holds {first}; runs that are averaged must have "
                "the same steps, classes and layer (--until and --layer may help)"
            )
    for name, one, two in (("step", means.steps, others.steps), ("time", means.times, others.times)):
        different = np.flatnonzero(one != two)
        if different.size:
            at = int(different[0])
            raise InputError(
                f"{other.path}: record {at} is at {name} {two[at]}, but at {one[at]} in {recording.path}; runs that "
                "are averaged must have the same steps"
            )
