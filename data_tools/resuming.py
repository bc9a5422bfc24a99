"""Continue a recording after training was broken off and is started again from a checkpoint.

A file whose writer died cannot be opened for writing any more. Its records up to the checkpoint are copied to a new
file, which takes the old one's place when all of them are there, and grows from then on.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_tools.elasticity_records import (
    DriftMeasurement,
    ElasticityLayout,
    ElasticitySettings,
    ElasticitySnapshot,
)
from data_tools.errors import InputError
from data_tools.new_file import temporary_beside
from data_tools.record_array import checked_dataset
from data_tools.record_taking import class_states
from data_tools.recorded_elasticity import RecordedElasticity
from data_tools.recording import Recording
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_writer import RecordingWriter
from data_tools.resumed_reduction import reduction_differences
from data_tools.schedules import Course
from data_tools.untrusted_hdf5 import check_contents, open_untrusted

_MUST_AGREE = ("model_class", "n_parameters", "probe_sha256", "probe_batch_size")
_UNKNOWN = ElasticitySettings(np.ones(1), 1)


def is_empty(path: Path) -> bool:
    """Tell whether a recording has no records, as when its writer was killed before the first.

    Raises
    ------
    InputError
        If the file is not HDF5, or is unsafe to read.
    """
    file = open_untrusted(path)
    try:
        check_contents(file, path)
        return "committed" in file and int(checked_dataset(file, path, "/committed", (), "iu")[()]) == 0
    finally:
        file.close()


def recorded_layout(recording: Recording) -> RecordingLayout:
    """Return what is fixed over a recording, as a writer takes it.

    Raises
    ------
    InputError
        If what is stored of elasticity or of all samples cannot be right.
    """
    classifier = recording.classifier
    snapshots = _snapshots(recording, until=None)
    first, kept = next(snapshots, None), recording.reduction()
    return RecordingLayout(
        recording.labels,
        recording.given_labels,
        {
            layer: LayerLayout(recording.features(layer).shape[2], recording.features(layer).dtype)
            for layer in recording.layers
        },
        logits=recording.logits,
        classifier_width=None if classifier is None else classifier.weight.shape[2],
        classifier_layer=None if classifier is None else classifier.layer,
        scalars=tuple(recording.scalars),
        elasticity=None if first is None else ElasticityLayout.of(_settings(recording), first),
        class_frequencies=recording.class_frequencies,
        reduced=None if kept is None else kept[0],
    )


def check_same_run(
    recording: Recording,
    until: int,
    layout: RecordingLayout,
    provenance: Mapping[str, object],
    settings: ElasticitySettings | None,
) -> None:
    """Refuse to continue a recording of something else.

    Parameters
    ----------
    recording
        What was recorded before.
    until
        Updates of the optimizer that the checkpoint has seen.
    layout
        What is to be recorded now, apart from scalars and elasticity.
    provenance
        Of what is recorded now.
    settings
        How elasticity is measured now, if it is.

    Raises
    ------
    InputError
        Naming what differs: the probe, the network, layers, labels, types, what is kept of all samples, or how
        elasticity is measured; or if the recording starts after the step at which to resume, or its writer is still at
        work.
    """
    if recording.writer == "writing":
        raise InputError(f"{recording.path}: is still being written; end the training that writes it before resuming")
    if recording.steps[0] > until:
        raise InputError(
            f"{recording.path}: starts at step {recording.steps[0]}, so it cannot be resumed at step {until}; "
            "record to another file"
        )
    before = recorded_layout(recording)
    pairs: dict[str, tuple[object, object]] = {
        "layers": (", ".join(before.layers), ", ".join(layout.layers)),
        **{
            f"width of layer {name}": (before.layers[name].width, layer.width)
            for name, layer in layout.layers.items()
            if name in before.layers
        },
        **{
            f"type of layer {name}": (np.dtype(before.layers[name].dtype), np.dtype(layer.dtype))
            for name, layer in layout.layers.items()
            if name in before.layers
        },
        "layer of the logits": (before.logits, layout.logits),
        "classifier": (
            (before.classifier_width, before.classifier_layer),
            (layout.classifier_width, layout.classifier_layer),
        ),
        **reduction_differences(before.reduced, layout.reduced),
        "labels": (before.labels.tolist(), layout.labels.tolist()),
        "given labels": (before.given_labels.tolist(), layout.given_labels.tolist()),
        "class frequencies": (_as_list(before.class_frequencies), _as_list(layout.class_frequencies)),
        "measurement of elasticity": (
            _comparable(None if before.elasticity is None else before.elasticity.settings),
            _comparable(settings),
        ),
        **{name: (recording.provenance.get(name), provenance.get(name)) for name in _MUST_AGREE},
    }
    for name, (then, now) in pairs.items():
        if then != now:
            long = len(f"{then}{now}") > 200
            detail = "" if long else f": {then} then, {now} now"
            raise InputError(
                f"{recording.path}: cannot be resumed, as it differs in the {name}{detail}; resume with what it was "
                "recorded with, or record to another file"
            )


def resumed_writer(recording: Recording, until: int, scalars: tuple[str, ...]) -> RecordingWriter:
    """Keep the records up to a step in a new file in the old one's place, and return its writer.

    Parameters
    ----------
    recording
        What was recorded before, open.
    until
        Updates of the optimizer that the checkpoint has seen. Records and measurements beyond are dropped.
    scalars
        Names of the numbers that are recorded now.

    Raises
    ------
    InputError
        If the scalars differ, or the disk has no room for the copy.
    """
    path = recording.path
    if set(scalars) != set(recording.scalars):
        odd = ", ".join(sorted(set(scalars) ^ set(recording.scalars)))
        raise InputError(f"{path}: cannot be resumed, as it differs in the scalars: {odd}; give the same to `step`")
    attributes = {name: value for name, value in recording.provenance.items() if name != "closed"}
    earlier = recording.provenance.get("resumed_at")
    attributes["resumed_at"] = str(until) if earlier is None else f"{earlier}, {until}"
    temporary = temporary_beside(path)
    writer = RecordingWriter(temporary, recorded_layout(recording), provenance=attributes)
    try:
        _copy(recording, writer, until)
        writer.move(path)
    except BaseException:
        writer.close()
        temporary.unlink(missing_ok=True)
        raise
    return writer


def replay(recording: Recording, until: int, course: Course) -> None:
    """Show a schedule the records up to a step, as if they had just been taken."""
    layer = recording.logits or recording.layers[-1]
    for record in range(int(np.searchsorted(recording.steps, until, side="right"))):
        features = {layer: recording.features(layer)[record]}
        course.observe(int(recording.steps[record]), class_states(features, recording.logits, recording.given_labels))


def first_missing(recording: Recording, until: int, course: Course) -> int | None:
    """Return the first step up to `until` that should have been recorded and was not, after `replay`."""
    last = recording.steps[recording.steps <= until][-1]
    return next((step for step in range(int(last) + 1, until + 1) if course.is_due(step)), None)


def _copy(recording: Recording, writer: RecordingWriter, until: int) -> None:
    classifier, kept = recording.classifier, recording.reduction()
    for record in range(int(np.searchsorted(recording.steps, until, side="right"))):
        writer.append(
            int(recording.steps[record]),
            {layer: recording.features(layer)[record] for layer in recording.layers},
            time=float(recording.time[record]),
            classifier=None if classifier is None else (classifier.weight[record], classifier.bias[record]),
            scalars={name: float(values[record]) for name, values in recording.scalars.items()},
            reduced=None if kept is None else {name: array[record] for name, array in kept[1].items()},
            commit=False,
        )
    for snapshot in _snapshots(recording, until):
        writer.append_elasticity(snapshot, commit=False)
    writer.commit()


def _snapshots(recording: Recording, until: int | None) -> Iterator[ElasticitySnapshot]:
    """Yield the measurements of elasticity up to a step, as they were taken."""
    by_layer = _measured(recording)
    if not by_layer:
        return
    any_layer = next(iter(next(iter(by_layer.values())).values()))
    for number, step in enumerate(any_layer.steps):
        if until is None or step <= until:
            yield ElasticitySnapshot(
                int(step),
                float(any_layer.lr[number]),
                {
                    layer: {group: _measurement(read, number) for group, read in groups.items()}
                    for layer, groups in by_layer.items()
                },
            )


def _measured(recording: Recording) -> dict[str, dict[str, RecordedElasticity]]:
    differ = not np.array_equal(recording.labels, recording.given_labels)
    found: dict[str, dict[str, RecordedElasticity]] = {}
    for layer in recording.layers:
        read = {"labels": recording.elasticity(layer)}
        if differ:
            read["given_labels"] = recording.elasticity(layer, "given_labels")
        groups = {group: elasticity for group, elasticity in read.items() if elasticity is not None}
        if groups:
            found[layer] = groups
    return found


def _measurement(read: RecordedElasticity, number: int) -> DriftMeasurement:
    optional = (read.tangent, read.impact, read.kernel, read.similarity)
    return DriftMeasurement(read.onestep[number], *(None if array is None else array[number] for array in optional))


def _settings(recording: Recording) -> ElasticitySettings:
    for groups in _measured(recording).values():
        for read in groups.values():
            return ElasticitySettings(read.shares, read.n_repeats, read.batch_size, read.optimizer, read.momentum)
    return _UNKNOWN


def _comparable(settings: ElasticitySettings | None) -> object:
    return None if settings is None else {**vars(settings), "shares": settings.shares.tolist()}


def _as_list(values: object) -> object:
    return None if values is None else np.asarray(values).tolist()
