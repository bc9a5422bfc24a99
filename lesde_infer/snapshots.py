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
from lesde_infer.class_average import ClassAverage
from lesde_infer.deviation_sums import Moment, Push
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
from lesde_infer.residuals import Residuals

Grouping = Literal["labels", "given_labels"]
MINIMAL_SAMPLES = 2
"""Samples of a class below which nothing can be said of its spread."""


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
    _require_usable(recording, layer, record, features)
    return features


def _require_usable(
    recording: RecordSource, layer: str, record: int, features: Float[np.ndarray, "sample feature"]
) -> None:
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


def present_samples(features: Float[np.ndarray, "sample feature"]) -> Bool[np.ndarray, " sample"]:
    """Return which samples a record holds, whose features are NaN throughout or not at all."""
    return ~np.isnan(features[:, 0])


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
    deviation_square : float
        Sum of the squares of all deviations from them.
    impacts : RecordImpacts
        Impacts of the classes.
    directions : IntervalDirections
        Along which impacts move the class means until the next record.
    impact_f : float
        F statistic of the impacts, see `lesde_infer.statistics.Statistics`.
    features : array, shape (sample, feature)
        As the reader got them.
    mean_square : float
        Mean of all their squares.
    present : array, shape (sample,)
        Samples that the record holds.
    push : Push or None
        Under impact R, what pushes each sample that the record holds, besides its class.
    """

    class_means: Float[np.ndarray, "class_ feature"]
    deviation_square: float
    impacts: RecordImpacts
    directions: IntervalDirections
    impact_f: float
    features: Float[np.ndarray, "sample feature"]
    mean_square: float
    present: Bool[np.ndarray, " sample"]
    push: Push | None

    def over(self, average: ClassAverage, samples: Bool[np.ndarray, " sample"]) -> Moment:
        """Return features, class means and deviations of some of the samples, whose class average is given."""
        if samples.all():
            return Moment(self.features, self.class_means, self.deviation_square)
        features = self.features[samples]
        means, _, deviation_square = average.spread(features)
        return Moment(features, means, deviation_square)

    def push_over(self, average: ClassAverage, samples: Bool[np.ndarray, " sample"]) -> Push | None:
        """Return what pushes some of the samples besides their class, whose mean is over these."""
        if self.push is None or samples.all():
            return self.push
        own = self.push.residuals[:, samples[self.present]]
        return self.push._replace(residuals=own - average(own.T).T[:, average.groups])

    @property
    def contrast(self) -> Float[np.ndarray, "class_ feature"]:
        """Contrasts of the impact: hₖ less its mean over classes."""
        return self.directions.impact


class SnapshotReader:
    """Turns one record of a recording into class means, deviations and directions.

    Parameters
    ----------
    recording, layer, impact, group
        What is read.
    weights : array, shape (class,), or None
        w_l of each class (`lesde_infer.impacts`).
    momentum : MomentumFilter, optional
        Filters impacts.
    as_stored : bool
        Whether snapshots may hold features as the recording returns them, and not in double precision.
    """

    def __init__(
        self,
        recording: RecordSource,
        layer: str,
        impact: Impact,
        group: Grouping,
        weights: Weights = None,
        momentum: MomentumFilter | None = None,
        *,
        as_stored: bool = False,
    ) -> None:
        self.recording, self.layer, self.impact, self.weights = recording, layer, impact, weights
        self.momentum, self._as_stored = momentum, as_stored
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
        features = self._features(self.layer, record)
        spread = self.average.spread(features)
        present = np.ones(len(features), dtype=bool)
        if not spread.square <= LARGEST_FEATURE**2:
            _require_usable(self.recording, self.layer, record, features)
            present = present_samples(features)
        logits = features
        if self.impact == "R" and self.hidden:
            logits = self._features(self.logits, record)
            _require_usable(self.recording, self.logits, record, logits)
            present &= present_samples(logits)
        average, held = self.average, features
        if not present.all():
            of_present = self.average_over(present)
            if of_present is None:
                return present, None
            average, held, logits = of_present, features[present], logits[present]
            spread = average.spread(held)
        push = None
        if self.impact == "I":
            impacts = RecordImpacts(spread.means, partial(isotropic_directions, weights=self.weights))
            f_statistic = average.f_of(spread.means, spread.deviation_square)
        elif self.impact == "L":
            impacts = RecordImpacts(spread.means, partial(logits_directions, weights=self.weights))
            axes = simplex_directions(self.n_classes)[average.groups]
            f_statistic = average.f_statistic((held * axes).sum(axis=1, keepdims=True) * axes)
        else:
            residuals = Residuals.of(logits, self.recording.given_labels[present], average, self.weights)
            weight = self._classifier_weight(record) if self.hidden else None

            def directions(drive: Float[np.ndarray, "class_ given_class"]) -> IntervalDirections:
                return residual_directions(weighted(drive, self.weights), residuals.curvature, weight)

            impacts, f_statistic = RecordImpacts(residuals.means, directions), residuals.f_statistic
            push = Push(residuals.deviations, np.eye(logits.shape[1]) if weight is None else weight)
        return present, Snapshot(
            spread.means,
            spread.deviation_square,
            impacts,
            impacts.driving(*self._drive(record, impacts.values)),
            f_statistic,
            features,
            spread.square / held.size,
            present,
            push,
        )

    def _features(self, layer: str, record: int) -> Float[np.ndarray, "sample feature"]:
        found: Float[np.ndarray, "sample feature"] = self.recording.features(layer)[record]
        return found if self._as_stored else np.asarray(found, dtype=np.float64)

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
