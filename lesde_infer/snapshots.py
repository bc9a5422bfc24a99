"""One record at a time: class means, deviations from them, and the directions in which impacts move the means.

Samples that are missing at a record (all their features are NaN there) are left out of it, never imputed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.errors import InputError
from data_tools.recording import RecordedClassifier
from lesde_infer.impacts import (
    Impact,
    IntervalDirections,
    Weights,
    isotropic_directions,
    logits_directions,
    residual_directions,
    simplex_directions,
    weighted,
    with_less_feedback,
)
from lesde_infer.momentum import MomentumFilter
from lesde_infer.record_source import RecordSource

Grouping = Literal["labels", "given_labels"]
MINIMAL_SAMPLES = 2
"""Samples of a class below which nothing can be said of its spread."""


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


def read_record(recording: RecordSource, layer: str, record: int) -> Float[np.ndarray, "sample feature"]:
    """Read the features of a record; samples that are missing are NaN throughout, and anything else not finite refused.

    Raises
    ------
    InputError
        Where a sample's features are infinite, NaN in part (`data_tools.Recording.check_finite`), or too large to
        compute with.
    """
    features = np.asarray(recording.features(layer)[record], dtype=np.float64)
    finite = np.isfinite(features)
    if not finite.all() and not (finite.all(axis=1) | np.isnan(features).all(axis=1)).all():
        recording.check_finite(layer)
    largest = float(np.max(np.abs(features), initial=0.0, where=~np.isnan(features)))
    if largest > LARGEST_FEATURE:
        before = f"fit what comes before with --until {recording.steps[record - 1]}" if record else "train again"
        raise InputError(
            f"{recording.path}: layer {layer} holds values up to {largest:.0e} at step {recording.steps[record]}: "
            f"training diverged; {before}"
        )
    return features


def present_samples(features: Float[np.ndarray, "sample feature"]) -> Bool[np.ndarray, " sample"]:
    """Return which samples a record that `read_record` read holds."""
    return ~np.isnan(features[:, 0])


def _spread_out(
    held: Float[np.ndarray, "held value"], present: Bool[np.ndarray, " sample"]
) -> Float[np.ndarray, "sample value"]:
    """Give each sample its row, NaN where it is missing."""
    if present.all():
        return held
    spread = np.full((len(present), held.shape[1]), np.nan)
    spread[present] = held
    return spread


@dataclass(frozen=True)
class RecordImpacts:
    """Impacts at a record, and the directions along which they move the class means.

    Attributes
    ----------
    values : array, shape (class, value)
        h: class means of the features, or under R of the residuals; not weighted.
    directions : function
        Returns the directions for these or other impacts.
    """

    values: Float[np.ndarray, "class_ value"]
    directions: Callable[[Float[np.ndarray, "class_ value"]], IntervalDirections]

    def driving(self, drive: Float[np.ndarray, "class_ value"], share: float) -> IntervalDirections:
        """Return the directions of a drive, a share of which feeds back (`lesde_infer.momentum`)."""
        return with_less_feedback(self.directions(drive), share)


@dataclass(frozen=True)
class Snapshot:
    """One record, as class means, deviations from them, and directions of the impact, over the samples it holds.

    Attributes
    ----------
    class_means : array, shape (class, feature)
        Means over the samples of each class.
    deviations : array, shape (sample, feature)
        Features minus the mean of their class; NaN for missing samples.
    impacts : RecordImpacts
        Impacts of the classes.
    directions : IntervalDirections
        Along which impacts move the class means until the next record.
    impact_f : float
        F statistic of the impacts, see `lesde_infer.statistics.Statistics`.
    features : array, shape (sample, feature)
        As recorded.
    present : array, shape (sample,)
        Samples that the record holds.
    sample_impacts : array, shape (sample, feature), or None
        Under impact R V r_i, the residual of each sample in feature space; NaN for missing samples.
    """

    class_means: Float[np.ndarray, "class_ feature"]
    deviations: Float[np.ndarray, "sample feature"]
    impacts: RecordImpacts
    directions: IntervalDirections
    impact_f: float
    features: Float[np.ndarray, "sample feature"]
    present: Bool[np.ndarray, " sample"]
    sample_impacts: Float[np.ndarray, "sample feature"] | None

    def over(
        self, average: ClassAverage, samples: Bool[np.ndarray, " sample"]
    ) -> tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, "chosen feature"]]:
        """Return class means over some of the samples, whose class average is given, and deviations from these."""
        if samples.all():
            return self.class_means, self.deviations
        features = self.features[samples]
        means = average(features)
        return means, features - means[average.groups]

    def pushes_over(
        self, average: ClassAverage, samples: Bool[np.ndarray, " sample"]
    ) -> Float[np.ndarray, "chosen feature"] | None:
        """Return what pushes some of the samples besides their class: V(r_i − r̄_g), r̄_g the mean of its class."""
        if self.sample_impacts is None:
            return None
        own = self.sample_impacts[samples]
        return own - average(own)[average.groups]

    @property
    def contrast(self) -> Float[np.ndarray, "class_ feature"]:
        """Contrasts of the impact: hₖ less its mean over classes."""
        return self.directions.impact

    @property
    def mean_square(self) -> float:
        """Mean of all squared features of the samples that the record holds."""
        return float(np.mean(self.features[self.present] ** 2))

    def equals(self, other: "Snapshot", samples: Bool[np.ndarray, " sample"]) -> bool:
        """Whether no feature of some samples differs."""
        return np.array_equal(self.features[samples], other.features[samples])


class SnapshotReader:
    """Turns one record of a recording into class means, deviations and directions."""

    def __init__(
        self,
        recording: RecordSource,
        layer: str,
        impact: Impact,
        group: Grouping,
        weights: Weights = None,
        momentum: MomentumFilter | None = None,
    ) -> None:
        self.recording, self.layer, self.impact, self.weights = recording, layer, impact, weights
        self.momentum = momentum
        groups = recording.labels if group == "labels" else recording.given_labels
        self.classes, self.groups = np.unique(groups, return_inverse=True)
        self.n_classes = len(self.classes)
        self.average = ClassAverage(self.groups, self.n_classes)
        _require_classes(recording, self.average.sizes, self.classes, group)
        _require_impact(recording, layer, impact, self.n_classes, group)
        self.layers = [layer]
        if impact == "R":
            assert recording.logits is not None  # noqa: S101  (checked by _require_impact)
            self.logits = recording.logits
            self.hidden = layer != recording.logits
            self.target = np.eye(recording.features(recording.logits).shape[2])[recording.given_labels]
            self.layers += [self.logits] if self.hidden else []

    def average_over(self, samples: Bool[np.ndarray, " sample"]) -> ClassAverage | None:
        """Return class averages over some samples, or None if they are fewer than two of some class."""
        if samples.all():
            return self.average
        groups = self.groups[samples]
        if np.bincount(groups, minlength=self.n_classes).min() < MINIMAL_SAMPLES:
            return None
        return ClassAverage(groups, self.n_classes)

    def read(self, record: int) -> tuple[Bool[np.ndarray, " sample"], Snapshot | None]:
        """Read a record: which samples it holds, and what is made of them; None if some class has fewer than two.

        A sample counts as held if every layer that the impact needs holds it. With momentum records are read in order.

        Raises
        ------
        InputError
            Where a value is infinite or only part of a sample's features is NaN.
        """
        features = read_record(self.recording, self.layer, record)
        logits = features
        if self.impact == "R" and self.hidden:
            logits = read_record(self.recording, self.logits, record)
        present = present_samples(features) & present_samples(logits)
        average = self.average_over(present)
        if average is None:
            return present, None
        held = features[present]
        means = average(held)
        impacts, sample_impact = self._impacts(record, average, held, means, logits[present], present)
        directions = impacts.driving(*self._drive(record, impacts.values))
        deviations = _spread_out(held - means[average.groups], present)
        sample_impacts = None
        if self.impact == "R":
            own = sample_impact @ self._classifier_weight(record) if self.hidden else sample_impact
            sample_impacts = _spread_out(own, present)
        f_statistic = average.f_statistic(sample_impact)
        snapshot = Snapshot(means, deviations, impacts, directions, f_statistic, features, present, sample_impacts)
        return present, snapshot

    def _impacts(
        self,
        record: int,
        average: ClassAverage,
        features: Float[np.ndarray, "held feature"],
        means: Float[np.ndarray, "class_ feature"],
        logits: Float[np.ndarray, "held given_class"],
        present: Bool[np.ndarray, " sample"],
    ) -> tuple[RecordImpacts, Float[np.ndarray, "held value"]]:
        if self.impact == "I":
            return RecordImpacts(means, partial(isotropic_directions, weights=self.weights)), features
        if self.impact == "L":
            axes = simplex_directions(self.n_classes)[average.groups]
            own = (features * axes).sum(axis=1, keepdims=True) * axes
            return RecordImpacts(means, partial(logits_directions, weights=self.weights)), own
        probabilities = softmax(logits)
        # At the given class it is the sum of all other probabilities: 1 − s would round to 0 where s is near 1.
        target = self.target[present]
        others = (probabilities * (1.0 - target)).sum(axis=1, keepdims=True)
        residuals = np.where(target > 0, others, -probabilities)
        class_probability = average(probabilities)
        scatter = average((probabilities[:, :, None] * probabilities[:, None, :]).reshape(len(logits), -1))
        n_given = logits.shape[1]
        mean_probability = weighted(class_probability, self.weights).mean(axis=0)
        mean_scatter = weighted(scatter, self.weights).mean(axis=0)
        curvature = np.diag(mean_probability) - mean_scatter.reshape(n_given, n_given)
        weight = self._classifier_weight(record) if self.hidden else None

        def directions(drive: Float[np.ndarray, "class_ given_class"]) -> IntervalDirections:
            return residual_directions(weighted(drive, self.weights), curvature, weight)

        return RecordImpacts(average(residuals), directions), residuals

    def _drive(
        self, record: int, impacts: Float[np.ndarray, "class_ value"]
    ) -> tuple[Float[np.ndarray, "class_ value"], float]:
        """Return what drives the interval that starts at a record, and the share of it that feeds back."""
        return (impacts, 1.0) if self.momentum is None else self.momentum.drive(record, impacts)

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
    recording: RecordSource, sizes: Int[np.ndarray, " class_"], classes: Int[np.ndarray, " class_"], group: Grouping
) -> None:
    """Raise InputError where a grouping leaves fewer than two classes, or a class with a single sample."""
    if len(sizes) < 2:
        raise InputError(
            f"{recording.path}: /{group} holds one class only, so there is nothing to "
            "tell apart; group otherwise (--group)"
        )
    if sizes.min() < MINIMAL_SAMPLES:
        raise InputError(
            f"{recording.path}: class {classes[sizes.argmin()]} by {group} has a single sample, so nothing can be said "
            "of its spread; probe at least two samples of each class, or group otherwise (--group)"
        )


def fed_classifier(recording: RecordSource, layer: str) -> RecordedClassifier | None:
    """Return the recorded linear classifier if it is the one that a layer feeds."""
    found: RecordedClassifier | None = recording.classifier
    if found is None or found.layer not in (None, layer):
        return None
    return found if found.weight.shape[2] == recording.features(layer).shape[2] else None


def _require_impact(recording: RecordSource, layer: str, impact: Impact, n_classes: int, group: Grouping) -> None:
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
