"""One record at a time: class means, deviations from them, and the directions in which impacts move the means."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import RecordedClassifier, Recording
from lesde_infer.impacts import (
    Impact,
    IntervalDirections,
    isotropic_directions,
    logits_directions,
    residual_directions,
    simplex_directions,
)

Grouping = Literal["labels", "given_labels"]


def softmax(logits: Float[np.ndarray, "sample class_"]) -> Float[np.ndarray, "sample class_"]:
    """Softmax over the last axis, safe against overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class ClassAverage:
    """Averages over the samples of each class, as one matrix product."""

    def __init__(self, groups: Int[np.ndarray, " sample"], n_classes: int) -> None:
        self.groups = groups
        self.sizes = np.bincount(groups, minlength=n_classes)
        self._indicator = np.zeros((n_classes, len(groups)))
        self._indicator[groups, np.arange(len(groups))] = 1.0
        self._indicator /= self.sizes[:, None]

    def __call__(self, values: Float[np.ndarray, "sample value"]) -> Float[np.ndarray, "class_ value"]:
        """Return the class means of ``values``."""
        return self._indicator @ values

    def f_statistic(self, values: Float[np.ndarray, "sample value"]) -> float:
        """Between-class mean square over within-class mean square, summed over components; 0 if both vanish."""
        means = self(values)
        grand = self.sizes @ means / self.sizes.sum()
        between = (self.sizes[:, None] * (means - grand) ** 2).sum() / (len(self.sizes) - 1)
        within = ((values - means[self.groups]) ** 2).sum() / (len(values) - len(self.sizes))
        return float(between / within) if within > 0 else (np.inf if between > 0 else 0.0)


LARGEST_FEATURE = 1e60  # beyond it, products of squares overflow


def read_record(recording: Recording, layer: str, record: int) -> Float[np.ndarray, "sample feature"]:
    """Read the features of a record, and refuse what is not finite or too large to compute with."""
    features = np.asarray(recording.features(layer)[record], dtype=np.float64)
    if not np.isfinite(features).all():
        recording.check_finite(layer)
    largest = float(np.abs(features).max())
    if largest > LARGEST_FEATURE:
        before = f"fit what comes before with --until {recording.steps[record - 1]}" if record else "train again"
        raise InputError(
            f"{recording.path}: layer {layer} holds values up to {largest:.0e} at step {recording.steps[record]}: "
            f"training diverged; {before}"
        )
    return features


@dataclass(frozen=True)
class Snapshot:
    """One record, as class means, deviations from them, and directions of the impact.

    Attributes
    ----------
    class_means : array, shape (class, feature)
        Means over the samples of each class.
    deviations : array, shape (sample, feature)
        Features minus the mean of their class.
    directions : IntervalDirections
        Along which impacts move the class means until the next record.
    impact_f : float
        F statistic of the impacts, see `lesde_infer.statistics.Statistics`.
    mean_square : float
        Mean of all squared features.
    """

    class_means: Float[np.ndarray, "class_ feature"]
    deviations: Float[np.ndarray, "sample feature"]
    directions: IntervalDirections
    impact_f: float
    mean_square: float

    def equals(self, other: "Snapshot") -> bool:
        """Whether no feature differs."""
        return np.array_equal(self.class_means, other.class_means) and np.array_equal(self.deviations, other.deviations)


class SnapshotReader:
    """Turns one record of a recording into class means, deviations and directions."""

    def __init__(self, recording: Recording, layer: str, impact: Impact, group: Grouping) -> None:
        self.recording, self.layer, self.impact = recording, layer, impact
        groups = recording.labels if group == "labels" else recording.given_labels
        classes, self.groups = np.unique(groups, return_inverse=True)
        self.n_classes = len(classes)
        self.average = ClassAverage(self.groups, self.n_classes)
        _require_classes(recording, self.average.sizes, classes, group)
        _require_impact(recording, layer, impact, self.n_classes, group)
        if impact == "R":
            assert recording.logits is not None  # noqa: S101  (checked by _require_impact)
            self.logits = recording.logits
            self.hidden = layer != recording.logits
            self.target = np.eye(recording.features(recording.logits).shape[2])[recording.given_labels]

    def read(self, record: int) -> Snapshot:
        """Read a record; raise InputError where it is not finite."""
        features = read_record(self.recording, self.layer, record)
        means = self.average(features)
        directions, sample_impact = self._directions(record, features, means)
        return Snapshot(
            means,
            features - means[self.groups],
            directions,
            self.average.f_statistic(sample_impact),
            float(np.mean(features**2)),
        )

    def _directions(
        self, record: int, features: Float[np.ndarray, "sample feature"], means: Float[np.ndarray, "class_ feature"]
    ) -> tuple[IntervalDirections, Float[np.ndarray, "sample value"]]:
        if self.impact == "I":
            return isotropic_directions(means), features
        if self.impact == "L":
            axes = simplex_directions(self.n_classes)[self.groups]
            return logits_directions(means), (features * axes).sum(axis=1, keepdims=True) * axes
        logits = read_record(self.recording, self.logits, record) if self.hidden else features
        probabilities = softmax(logits)
        # At the given class it is the sum of all other probabilities: 1 − s would round to 0 where s is near 1.
        others = (probabilities * (1.0 - self.target)).sum(axis=1, keepdims=True)
        residuals = np.where(self.target > 0, others, -probabilities)
        mean_probability = self.average(probabilities)
        scatter = self.average((probabilities[:, :, None] * probabilities[:, None, :]).reshape(len(logits), -1))
        n_given = logits.shape[1]
        curvature = np.diag(mean_probability.mean(axis=0)) - scatter.mean(axis=0).reshape(n_given, n_given)
        weight = self._classifier_weight(record) if self.hidden else None
        return residual_directions(self.average(residuals), curvature, weight), residuals

    def _classifier_weight(self, record: int) -> Float[np.ndarray, "given_class feature"]:
        assert self.recording.classifier is not None  # noqa: S101  (checked by _require_impact)
        weight = np.asarray(self.recording.classifier.weight[record], dtype=np.float64)
        if not np.isfinite(weight).all():
            raise InputError(
                f"{self.recording.path}: /classifier/weight is not finite at step {self.recording.steps[record]}; "
                "use earlier records only (--until)"
            )
        return weight


def _require_classes(
    recording: Recording, sizes: Int[np.ndarray, " class_"], classes: Int[np.ndarray, " class_"], group: Grouping
) -> None:
    """Raise InputError where a grouping leaves fewer than two classes, or a class with a single sample."""
    if len(sizes) < 2:
        raise InputError(
            f"{recording.path}: /{group} holds one class only, so there is nothing to "
            "tell apart; group otherwise (--group)"
        )
    if sizes.min() < 2:
        raise InputError(
            f"{recording.path}: class {classes[sizes.argmin()]} by {group} has a single sample, so nothing can be said "
            "of its spread; probe at least two samples of each class, or group otherwise (--group)"
        )


def fed_classifier(recording: Recording, layer: str) -> RecordedClassifier | None:
    """Return the recorded linear classifier if it is the one that a layer feeds."""
    found = recording.classifier
    if found is None or found.layer not in (None, layer):
        return None
    return found if found.weight.shape[2] == recording.features(layer).shape[2] else None


def _require_impact(recording: Recording, layer: str, impact: Impact, n_classes: int, group: Grouping) -> None:
    """Raise InputError where the recording lacks what the impact needs."""
    width = recording.features(layer).shape[2]
    where = f"{recording.path}: layer '{layer}'"
    if impact == "L" and width != n_classes:
        raise InputError(
            f"{where} has {width} features but {group} has {n_classes} classes: impact L needs logits; "
            "use --impact R or I"
        )
    if impact != "R":
        return
    if recording.logits is None:
        raise InputError(
            f"{recording.path}: impact R needs the logits, and no layer is marked as logits; "
            "record the output layer too, or use --impact I"
        )
    n_logits = recording.features(recording.logits).shape[2]
    if recording.given_labels.max() >= n_logits:
        raise InputError(
            f"{recording.path}: /given_labels goes up to {recording.given_labels.max()} but layer "
            f"'{recording.logits}' has {n_logits} logits: labels must be 0 to {n_logits - 1}"
        )
    if layer == recording.logits:
        return
    if fed_classifier(recording, layer) is None:
        classifier = recording.classifier
        fed_by = f", and the recorded one is fed by '{classifier.layer}'" if classifier and classifier.layer else ""
        raise InputError(
            f"{where}: impact R on a hidden layer needs the weights of the linear classifier it feeds "
            f"(/classifier/weight of width {width}){fed_by}; use layer '{recording.logits}', or --impact I"
        )
