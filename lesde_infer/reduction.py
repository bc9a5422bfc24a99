"""Reduce a recording to what fits need of it: statistics of all samples, and the features of a few.

The features of 50,000 samples of a layer 2,048 wide take 400 MB a record; what a fit needs of them takes half of one
(`data_tools.reduced_records`). A reduced recording is an ordinary one of the samples that it keeps: checks, plots and
metrics work, on these, and fits are those of all samples (`lesde_infer.reduced_intervals`).
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.new_file import written_whole
from data_tools.recording import Recording
from data_tools.recording_schema import encode_name
from data_tools.recording_writer import write_recording
from data_tools.reduced_records import ROOT, case_name
from lesde_infer.frequencies import class_frequencies, class_weights
from lesde_infer.impacts import Impact
from lesde_infer.interval_products import IntervalProducts
from lesde_infer.probe_sampling import moved_along
from lesde_infer.reduced_intervals import Shape, pack
from lesde_infer.snapshots import MINIMAL_SAMPLES, Grouping, Snapshot, SnapshotReader

KEEP_PER_CLASS = 50


def reduce_recording(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    impacts: Sequence[str] | None = None,
    groups: Sequence[str] = ("labels", "given_labels"),
    keep_per_class: int = KEEP_PER_CLASS,
    seed: int = 0,
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
    layers
        Layers whose statistics are kept; all by default. Features of the samples kept are those of all layers.
    impacts
        Impacts; by default all that can be fitted to a layer.
    groups
        Groupings into classes; the first only, where labels and given labels are the same.
    keep_per_class
        Samples of each class by label whose features are kept, chosen at random; at least 2.
    seed
        Fixes the choice.
    progress
        Called with the layer and case, records done, and records in all.
    force
        Replace an existing file.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        If the recording is reduced already, lacks samples at some record, or holds what cannot be fitted; if a layer,
        an impact or a grouping is unknown, or an impact asked for cannot be fitted to a layer.
    """
    path, out = Path(path), Path(out)
    if keep_per_class < MINIMAL_SAMPLES:
        raise InputError(f"keep_per_class is {keep_per_class}; keep at least {MINIMAL_SAMPLES} samples of each class")
    chosen_impacts: list[Impact] = _known("impact", impacts or (), get_args(Impact))
    chosen_groups: list[Grouping] = _known("group", groups, get_args(Grouping))
    with Recording(path) as recording, written_whole(out, force) as temporary:
        if recording.is_reduced:
            raise InputError(f"{path}: is reduced already")
        wanted = [recording.choose_layer(layer) for layer in layers] if layers else recording.layers
        kept = kept_samples(recording.labels, keep_per_class, seed)
        _write_kept(recording, kept, temporary)
        same = np.array_equal(recording.labels, recording.given_labels)
        with h5py.File(temporary, "r+", libver="latest") as file:
            file[f"{ROOT}/labels"], file[f"{ROOT}/given_labels"] = recording.labels, recording.given_labels
            for layer in wanted:
                for group in chosen_groups if not same else chosen_groups[:1]:
                    for impact in chosen_impacts or _fitting_impacts(recording, layer, group):
                        _write_case(recording, layer, impact, group, file, progress)
    return out


def _known(name: str, chosen: Sequence[str], known: tuple[Any, ...]) -> list[Any]:
    """Return choices, each once."""
    for value in chosen:
        if value not in known:
            raise InputError(f"{name} '{value}' is unknown; choose one of {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def kept_samples(labels: Int[np.ndarray, " sample"], per_class: int, seed: int) -> Int[np.ndarray, " kept"]:
    """Return the samples whose features are kept, in order."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


class _KeptSamples:
    """Features of some of the samples, read record by record."""

    def __init__(self, features: Any, samples: Int[np.ndarray, " kept"]) -> None:
        self._features, self._samples = features, samples
        self.shape, self.dtype = (features.shape[0], len(samples), features.shape[2]), features.dtype

    def __getitem__(self, record: int) -> Float[np.ndarray, "kept feature"]:
        return self._features[record][self._samples]


def _write_kept(recording: Recording, kept: Int[np.ndarray, " kept"], target: Path) -> None:
    found = recording.classifier
    classifier = None
    if found is not None:
        classifier = (found.weight, found.bias) if found.layer is None else (found.weight, found.bias, found.layer)
    write_recording(
        target,
        recording.steps,
        recording.labels[kept],
        {layer: _KeptSamples(recording.features(layer), kept) for layer in recording.layers},
        logits=recording.logits,
        given_labels=recording.given_labels[kept],
        classifier=classifier,
        scalars=recording.scalars,
        time=recording.time,
        class_frequencies=recording.class_frequencies,
        provenance={**recording.provenance, "reduced_from_samples": recording.n_samples},
    )


def _fitting_impacts(recording: Recording, layer: str, group: Grouping) -> list[Impact]:
    """Return the impacts that the recording holds enough for."""
    found: list[Impact] = []
    for impact in get_args(Impact):
        with suppress(InputError):
            SnapshotReader(recording, layer, impact, group)
            found.append(impact)
    return found


def _write_case(
    recording: Recording,
    layer: str,
    impact: Impact,
    group: Grouping,
    file: Any,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    weights = class_weights(class_frequencies(recording, group))
    reader = SnapshotReader(recording, layer, impact, group, weights)
    n_records, n_samples = recording.n_records, recording.n_samples
    name = case_name(impact, group)
    node = file.create_group(f"{ROOT}/{encode_name(layer)}/{name}")
    everyone = np.ones(n_samples, dtype=bool)
    before: Snapshot | None = None
    earlier: Float[np.ndarray, "class_ feature"] | None = None
    shape: Shape | None = None
    for record in range(n_records):
        held, after = reader.read(record)
        if after is None or not held.all():
            raise InputError(
                f"{recording.path}: samples are missing at step {recording.steps[record]}; a reduced recording holds "
                "whole probes only"
            )
        moved = np.zeros(n_samples)
        if before is None:
            _make_arrays(node, after, n_records, n_samples)
        else:
            products, _ = IntervalProducts.between(before, after, reader.average, everyone)
            two_apart = float(np.vdot(earlier, after.contrast)) if earlier is not None else 0.0
            moved = moved_along(after.features - before.features, before.contrast, reader.groups)
            if shape is None:
                shape = Shape.of(products)
                _make_products(node, shape, n_records)
            node["products"][record] = pack(products, two_apart)
        node["class_means"][record], node["impact"][record] = after.class_means, after.contrast
        node["mean_impact"][record] = after.directions.shared.sum(axis=0)
        node["mean_square"][record] = after.mean_square
        node["moved_along"][record] = moved
        earlier, before = None if before is None else before.contrast, after
        if progress is not None:
            progress(f"{layer} {name}", record + 1, n_records)
    if shape is None:
        raise InputError(f"{recording.path}: holds 1 record; a fit needs at least two")


def _make_arrays(node: Any, first: Snapshot, n_records: int, n_samples: int) -> None:
    for name, shape in (
        ("class_means", first.class_means.shape),
        ("impact", first.class_means.shape),
        ("mean_impact", first.class_means.shape[1:]),
    ):
        node.create_dataset(name, (n_records, *shape), np.float64, chunks=(1, *shape))
    node.create_dataset("mean_square", (n_records,), np.float64)
    node.create_dataset("moved_along", (n_records, n_samples), np.float32, chunks=(1, n_samples))


def _make_products(node: Any, shape: Shape, n_records: int) -> None:
    node.create_dataset("products", (n_records, sum(shape.lengths)), np.float64, chunks=(1, sum(shape.lengths)))
    for name in ("n_contrast", "n_shared", "n_axes"):
        node.attrs[name] = getattr(shape, name)
