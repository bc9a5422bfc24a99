"""The geometry of recorded features at one record: separability, its margin and its chance, and neural collapse.

Nothing is inferred here. All is measured in double precision of the features as recorded, of the samples present there.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.collapse import CollapseVariant, Weights, between_class_spectrum, nc1, nc2_equiangular, nc3
from lesde_infer.layer_separation import LayerSeparation, layer_separation
from lesde_infer.margins import PERMUTATIONS, Separation, separation
from lesde_infer.observed import METRICS, observe
from lesde_infer.plain_values import plain
from lesde_infer.separability import held_out_linear_accuracy
from lesde_infer.snapshots import Grouping, fed_classifier, present_samples, read_record

MOST_FOLDS = 5
LEAST_SAMPLES = 2  # of a class: one has no scatter


@dataclass(frozen=True)
class Geometry:
    """What is measured of a layer at one record.

    Attributes
    ----------
    layer, group : str
        Layer, and grouping of the samples.
    step : int
        Optimizer steps done.
    n_samples, n_features, n_classes : int
        Of the samples present.
    metrics : dict of float
        The metrics of `lesde_infer.observed` by name, as far as the recording has what they need; not a number where
        the features do not define one.
    undefined : dict of str
        Why, for each metric that is missing or not a number.
    held_out_accuracy : float
        Of a linear classifier on samples that it was not fitted to: cross-validation in five folds, or in as many as
        the smallest class has samples.
    variants : dict of float
        The other forms of NC1 to NC3 that are in use.
    effective_rank : int
        Directions that class means span; K−1 if they span as many as they can.
    condition : float
        Of the between-class covariance: its largest eigenvalue over the (K−1)-th.
    separation : Separation
        Margins, and chance.
    layers : LayerSeparation or None
        Separation fuzziness of all layers recorded; None if there is one only.
    """

    layer: str
    group: Grouping
    step: int
    n_samples: int
    n_features: int
    n_classes: int
    metrics: dict[str, float]
    undefined: dict[str, str]
    held_out_accuracy: float
    variants: dict[str, float]
    effective_rank: int
    condition: float
    separation: Separation
    layers: LayerSeparation | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not a finite number is None."""
        names = ("layer", "group", "step", "n_samples", "n_features", "n_classes", "effective_rank", "undefined")
        return {
            **{name: getattr(self, name) for name in names},
            "metrics": plain(self.metrics),
            "variants": plain(self.variants),
            **plain({"condition": self.condition, "held_out_accuracy": self.held_out_accuracy}),
            "separation": self.separation.to_json(),
            "layers": self.layers and self.layers.to_json(),
        }


def geometry(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    group: Grouping = "labels",
    at: int | None = None,
    order: Sequence[str] | None = None,
    weights: Weights = "class",
    n_permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Geometry:
    """Measure separability and collapse of a recorded layer.

    Parameters
    ----------
    path : path
        A recording.
    layer : str, optional
        By default the logits.
    group : {"labels", "given_labels"}
        Classes by what samples are, or by what they are trained as.
    at : int, optional
        Optimizer step; the last record at or before it is taken. By default the last of all.
    order : sequence of str, optional
        Layers in the order in which the network applies them, for the law of data separation; by default as recorded.
    weights : {"class", "sample"}
        Whether in ``variants`` and the spectrum classes count alike, or by their numbers of samples. Metrics count
        classes alike.
    n_permutations, seed : int
        Permutations of labels that tell what is separable by chance, and what fixes them.

    Raises
    ------
    InputError
        If there is no such layer or record, or a class has fewer than two samples there.
    """
    with Recording(path) as recording:
        layer = recording.choose_layer(layer)
        record = _record_at(recording, at)
        features = read_record(recording, layer, record)
        present = present_samples(features)
        labels = (recording.labels if group == "labels" else recording.given_labels)[present]
        _require_samples(Path(path), labels, int(recording.steps[record]))
        features = features[present]
        logits = read_record(recording, recording.logits, record)[present] if recording.logits else None
        classifier = fed_classifier(recording, layer)
        weight = None if classifier is None else np.asarray(classifier.weight[record], dtype=np.float64)
        others = {name: read_record(recording, name, record) for name in recording.layers}
    metrics, undefined = _measure(features, labels, logits, weight)
    spectrum = between_class_spectrum(features, labels, weights=weights)
    return Geometry(
        layer=layer,
        group=group,
        step=int(recording.steps[record]),
        n_samples=len(labels),
        n_features=features.shape[1],
        n_classes=len(np.unique(labels)),
        metrics=metrics,
        undefined=undefined,
        held_out_accuracy=held_out_linear_accuracy(features, labels, n_folds=_folds(labels), seed=seed),
        variants=_variants(features, labels, weight if "nc3" in metrics else None, weights),
        effective_rank=spectrum.effective_rank,
        condition=spectrum.condition,
        separation=separation(features, labels, n_permutations=n_permutations, seed=seed),
        layers=_all_layers(others, present, labels, order),
    )


def _record_at(recording: Recording, at: int | None) -> int:
    if at is None:
        return recording.n_records - 1
    reached = np.flatnonzero(recording.steps <= at)
    if not reached.size:
        raise InputError(
            f"{recording.path}: no record at or before step {at}; records are of steps {recording.steps[0]} to "
            f"{recording.steps[-1]}"
        )
    return int(reached[-1])


def _require_samples(path: Path, labels: Int[np.ndarray, " sample"], step: int) -> None:
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise InputError(f"{path}: samples of {len(names)} class(es) at step {step}; geometry is of two or more")
    if counts.min() < LEAST_SAMPLES:
        raise InputError(
            f"{path}: class {names[counts.argmin()]} has {counts.min()} sample at step {step}, which has no scatter; "
            "record two samples or more of each class"
        )


def _folds(labels: Int[np.ndarray, " sample"]) -> int:
    return min(MOST_FOLDS, int(np.unique(labels, return_counts=True)[1].min()))


def _measure(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    logits: Float[np.ndarray, "sample class_"] | None,
    weight: Float[np.ndarray, "class_ feature"] | None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Take the metrics, and say why those are missing that are not there."""
    metrics: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for name in METRICS:
        try:
            metrics |= observe(features, labels, metrics=[name], logits=logits, classifier=weight)
        except InputError as error:
            undefined[name] = str(error)
            continue
        if np.isnan(metrics[name]):
            undefined[name] = "class means coincide, are collinear, or are more than the features have dimensions for"
    return metrics, undefined


def _variants(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    weight: Float[np.ndarray, "class_ feature"] | None,
    weights: Weights,
) -> dict[str, float]:
    forms: tuple[CollapseVariant, ...] = ("per_class", "papyan", "quotient")
    found = {f"nc1_{form}": nc1(features, labels, form, weights=weights) for form in forms}
    found["nc2_equiangular_sd"] = nc2_equiangular(features, labels).sd
    if weight is not None:
        found["nc3_squared"] = nc3(features, labels, weight, squared=True)
    return found


def _all_layers(
    features: dict[str, Float[np.ndarray, "sample feature"]],
    present: np.ndarray,
    labels: Int[np.ndarray, " sample"],
    order: Sequence[str] | None,
) -> LayerSeparation | None:
    if len(features) < 2 and order is None:
        return None
    held = {name: values[present] for name, values in features.items()}
    return layer_separation(held, labels, order)
