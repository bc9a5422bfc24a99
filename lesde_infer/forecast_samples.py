"""The samples that a forecast starts from, and the metrics that can be taken of them, forecast and recorded.

A forecast must not know what happens after the prefix. What it takes from the recording is the samples at the prefix's
last record, their labels, and for impact R on a hidden layer the classifier of that record, which is held as it was.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from data_tools.recording import Recording
from lesde_infer.observed import METRICS, observe
from lesde_infer.snapshots import MINIMAL_SAMPLES, fed_classifier, present_samples, read_record

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit


@dataclass(frozen=True)
class ForecastSamples:
    """Samples at the last record of the prefix.

    Attributes
    ----------
    layer : str
        Their layer.
    is_logits : bool
        Whether it holds the logits.
    samples : array, shape (sample,)
        Which of the recorded samples.
    features : array, shape (sample, feature)
        Their features at the start.
    labels, groups : array, shape (sample,)
        Classes by the fit's grouping, as recorded, and the same numbered 0..K−1 without gaps.
    given_labels : array, shape (sample,)
        What they are trained as.
    all_groups : array, shape (recorded,)
        Class of every recorded sample, numbered likewise.
    n_classes : int
        K.
    has_classifier : bool
        Whether the layer feeds a recorded linear classifier.
    held : tuple of arrays, or None
        Weight (class, feature) and bias (class,) at the start: for impact R on a hidden layer.
    """

    layer: str
    is_logits: bool
    samples: Int[np.ndarray, " sample"]
    features: Float[np.ndarray, "sample feature"]
    labels: Int[np.ndarray, " sample"]
    groups: Int[np.ndarray, " sample"]
    given_labels: Int[np.ndarray, " sample"]
    all_groups: Int[np.ndarray, " recorded"]
    n_classes: int
    has_classifier: bool
    held: tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, " class_"]] | None

    @classmethod
    def of(
        cls, fit: "Fit", recording: Recording, start: int, max_samples_per_class: int, seed: int
    ) -> "ForecastSamples":
        """Read the samples that a record holds; classes with more are thinned to a random choice of the maximum."""
        layer = fit.settings.layer
        labels = recording.labels if fit.settings.group == "labels" else recording.given_labels
        _, groups = np.unique(labels, return_inverse=True)
        is_logits, found = layer == recording.logits, fed_classifier(recording, layer)
        held = None
        if fit.settings.impact == "R" and not is_logits:
            assert found is not None  # noqa: S101  (the fit needed it)
            held = found.weight[start].astype(np.float64), found.bias[start].astype(np.float64)
        features = read_record(recording, layer, start)
        present = present_samples(features)
        rng = np.random.default_rng([seed, 0])
        members = [np.flatnonzero((groups == position) & present) for position in range(fit.n_classes)]
        samples = np.sort(np.concatenate([rng.permutation(own)[:max_samples_per_class] for own in members]))
        return cls(
            layer=layer,
            is_logits=is_logits,
            samples=samples,
            features=features[samples],
            labels=labels[samples],
            groups=groups[samples],
            given_labels=recording.given_labels[samples],
            all_groups=groups,
            n_classes=fit.n_classes,
            has_classifier=not is_logits and found is not None,
            held=held,
        )

    @property
    def left_out(self) -> dict[str, str]:
        """Metrics that are not forecast, and why."""
        reasons = {}
        if self.is_logits:
            reasons["nc3"] = "the logits feed no classifier"
        elif self.held is None:
            why = "recorded, but only impact R says how it acts" if self.has_classifier else "not recorded"
            reasons |= dict.fromkeys(("network_accuracy", "nc3", "nc4"), f"the classifier on this layer is {why}")
        if self.n_classes == 2:
            reasons["nc2_equiangular"] = "always 0 for two classes"
        return reasons

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that are forecast."""
        return tuple(name for name in METRICS if name not in self.left_out)

    def measure(self, features: Float[np.ndarray, "sample feature"], metrics: tuple[str, ...]) -> dict[str, float]:
        """Take metrics of forecast features, under the classifier that is held."""
        if self.held is None:
            return observe(features, self.labels, metrics=metrics, logits=features)
        weight, bias = self.held
        return observe(features, self.labels, metrics=metrics, logits=features @ weight.T + bias, classifier=weight)

    def recorded(self, recording: Recording, record: int, metrics: tuple[str, ...]) -> dict[str, float]:
        """Take metrics of the same samples as recorded, under the recorded classifier; NaN if a class lacks samples.

        Samples that are missing at the record are left out.
        """
        features = read_record(recording, self.layer, record)[self.samples]
        present = present_samples(features)
        if np.bincount(self.groups[present], minlength=self.n_classes).min() < MINIMAL_SAMPLES:
            return dict.fromkeys(metrics, float("nan"))
        features, labels = features[present], self.labels[present]
        found = fed_classifier(recording, self.layer) if self.held is not None else None
        if found is None:
            return observe(features, labels, metrics=metrics, logits=features)
        weight, bias = found.weight[record].astype(np.float64), found.bias[record].astype(np.float64)
        return observe(features, labels, metrics=metrics, logits=features @ weight.T + bias, classifier=weight)
