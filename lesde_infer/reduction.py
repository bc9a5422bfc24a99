"""Reduce recordings to what fits need: statistics of all samples, and the features of a few.

The features of 50,000 samples of a layer 2,048 wide take 400 MB a record; what a fit needs of them takes half of one
(`data_tools.reduced_records`). A reduced recording is an ordinary one of the samples that it keeps: checks, plots and
metrics work, on these, and fits are those of all samples (`lesde_infer.reduced_intervals`).

A `Reduction` makes of records, one after the other, what is kept of them: while a network trains
(``FeatureRecorder(reduce=Reduction())``), or afterwards of a whole recording (`reduce_recording`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.new_file import written_whole
from data_tools.recording import Recording
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_schema import encode_name
from data_tools.recording_writer import RecordingWriter
from data_tools.reduced_records import Classifier, Features, ReducedLayout, ReducedSource, Rows, case_name
from lesde_infer.impacts import Impact
from lesde_infer.live_record import LiveRecord
from lesde_infer.momentum import filtered_momentum
from lesde_infer.reduced_case import CaseReduction
from lesde_infer.snapshots import MINIMAL_SAMPLES, Grouping, SnapshotReader

KEEP_PER_CLASS = 50


class Reduction:
    """Makes of records what a reduced recording holds of them.

    Parameters
    ----------
    layers : sequence of str, optional
        Layers whose statistics are kept; all by default.
    impacts : sequence of str, optional
        Impacts, ``I``, ``L`` and ``R``; by default all that can be fitted to a layer.
    groups : sequence of str
        Groupings into classes; the first only, where labels and given labels are the same.
    keep_per_class : int
        Samples of each class by label whose features are kept, chosen at random; at least 2.
    seed : int
        Fixes the choice.

    Raises
    ------
    InputError
        If an impact or a grouping is unknown, or too few samples are to be kept.

    Notes
    -----
    Features are taken in double precision as they come, and those of all samples held from one record to the next: it
    takes about as much memory as ten records in double precision.
    """

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        impacts: Sequence[str] | None = None,
        groups: Sequence[str] = ("labels", "given_labels"),
        keep_per_class: int = KEEP_PER_CLASS,
        seed: int = 0,
    ) -> None:
        if keep_per_class < MINIMAL_SAMPLES:
            raise InputError(f"keep_per_class is {keep_per_class}; keep at least {MINIMAL_SAMPLES} of each class")
        self._layers = None if layers is None else list(layers)
        self._impacts: list[Impact] = _known("impact", impacts or (), get_args(Impact))
        self._groups: list[Grouping] = _known("group", groups, get_args(Grouping))
        self._per_class, self._seed = keep_per_class, seed
        self._live: LiveRecord | None = None
        self._cases: dict[str, CaseReduction] = {}

    def start(self, source: ReducedSource, features: Features, classifier: Classifier) -> ReducedLayout:
        """Start anew, given the first record: say what there will be.

        Raises
        ------
        InputError
            If a layer was not recorded, or an impact cannot be fitted to one; or samples are missing.
        """
        live = self._live = LiveRecord(source, features, classifier)
        wanted = self._layers or live.layers
        for layer in wanted:
            live.features(layer)  # a layer that is not recorded is named
        same = np.array_equal(source.labels, source.given_labels)
        self._cases = {}
        for layer in wanted:
            for group in self._groups[:1] if same else self._groups:
                for impact in self._impacts or _fitting_impacts(live, layer, group):
                    name = f"{encode_name(layer)}/{case_name(impact, group)}"
                    momentum = filtered_momentum(source.provenance, impact)
                    self._cases[name] = CaseReduction(live, layer, impact, group, momentum)
        if not self._cases:
            raise InputError(f"{source.path}: no impact can be fitted to the layers; record the logits too")
        return ReducedLayout(
            source.labels,
            source.given_labels,
            kept_samples(source.labels, self._per_class, self._seed),
            {f"{name}/{array}": value for name, case in self._cases.items() for array, value in case.shapes().items()},
            {f"{name}{of}": found for name, case in self._cases.items() for of, found in case.attributes().items()},
        )

    def reduce(self, step: int, features: Features, classifier: Classifier) -> dict[str, Float[np.ndarray, "*shape"]]:
        """Return the arrays of a record; records come in order, the first as well.

        Raises
        ------
        InputError
            If a feature is not finite.
        """
        if self._live is None:
            raise InputError("a reduction is started before it reduces; give it to a FeatureRecorder")
        self._live.show(step, features, classifier)
        return {f"{name}/{array}": values for name, case in self._cases.items() for array, values in case.add().items()}

    def go_on(self, step: int, known: tuple[Features, Classifier] | None, rows: Mapping[str, Rows]) -> None:
        """Go on, after `start`, behind the record of a step, given the last two rows of each array up to it.

        ``known`` is that record again. Without it the interval that starts there is left out.

        Raises
        ------
        InputError
            If a feature is not finite.
        """
        if self._live is None:
            raise InputError("a reduction is started before it goes on; give it to a FeatureRecorder")
        self._live.steps[0] = step
        if known is not None:
            self._live.show(step, *known)
        for name, case in self._cases.items():
            own = {array.removeprefix(f"{name}/"): row for array, row in rows.items() if array.startswith(f"{name}/")}
            case.go_on(known is not None, own)


def reduce_recording(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    reduction: Reduction | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    force: bool = False,
) -> Path:
    """Write a reduced recording.

    Parameters
    ----------
    path
        A recording.
    out
        File to make.
    reduction
        What is kept; by default as `Reduction()` says.
    progress
        Called with what is done, records done, and records in all.
    force
        Replace an existing file.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If the recording is reduced already, lacks samples at some record, or holds what cannot be fitted.
    """
    path, out = Path(path), Path(out)
    reduction = Reduction() if reduction is None else reduction
    with Recording(path) as recording, written_whole(out, force) as temporary:
        if recording.is_reduced:
            raise InputError(f"{path}: is reduced already")
        source = _Records(recording)
        layout = source.layout(reduction.start(source.described(), *source.read(0)))
        kept = layout.reduced
        assert kept is not None  # noqa: S101  (given just now)
        provenance = {**recording.provenance, "reduced_from_samples": recording.n_samples}
        with RecordingWriter(temporary, layout, provenance=provenance) as writer:
            for record, step in enumerate(recording.steps.tolist()):
                features, classifier = source.read(record)
                writer.append(
                    step,
                    kept.keep(features),
                    time=float(recording.time[record]),
                    classifier=classifier,
                    scalars={name: float(values[record]) for name, values in recording.scalars.items()},
                    reduced=reduction.reduce(step, features, classifier),
                    commit=False,
                )
                if progress is not None:
                    progress("reducing", record + 1, recording.n_records)
    return out


def kept_samples(labels: Int[np.ndarray, " sample"], per_class: int, seed: int) -> Int[np.ndarray, " kept"]:
    """Return the samples whose features are kept, in order."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class _Records:
    """The records of a whole recording, as a recorder would have taken them."""

    recording: Recording

    def described(self) -> ReducedSource:
        whole = self.recording
        layer = None if whole.classifier is None else whole.classifier.layer
        return ReducedSource(
            whole.path,
            whole.labels,
            whole.given_labels,
            whole.logits,
            layer,
            whole.class_frequencies,
            whole.provenance,
        )

    def read(self, record: int) -> tuple[dict[str, Float[np.ndarray, "sample _"]], Classifier]:
        whole = self.recording
        features = {layer: np.asarray(whole.features(layer)[record]) for layer in whole.layers}
        found = whole.classifier
        return features, None if found is None else (found.weight[record], found.bias[record])

    def layout(self, reduced: ReducedLayout) -> RecordingLayout:
        whole = self.recording
        return RecordingLayout(
            whole.labels[reduced.samples],
            whole.given_labels[reduced.samples],
            {name: LayerLayout(whole.features(name).shape[2], whole.features(name).dtype) for name in whole.layers},
            logits=whole.logits,
            classifier_width=None if whole.classifier is None else whole.classifier.weight.shape[2],
            classifier_layer=None if whole.classifier is None else whole.classifier.layer,
            scalars=tuple(whole.scalars),
            class_frequencies=whole.class_frequencies,
            reduced=reduced,
        )


def _fitting_impacts(live: LiveRecord, layer: str, group: Grouping) -> list[Impact]:
    """Return the impacts that records hold enough for."""
    found: list[Impact] = []
    for impact in get_args(Impact):
        with suppress(InputError):
            SnapshotReader(live, layer, impact, group)
            found.append(impact)
    return found


def _known(name: str, chosen: Sequence[str], known: tuple[Any, ...]) -> list[Any]:
    """Return choices, each once."""
    for value in chosen:
        if value not in known:
            raise InputError(f"{name} '{value}' is unknown; choose one of {', '.join(known)}")
    return list(dict.fromkeys(chosen))
