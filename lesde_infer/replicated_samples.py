"""The samples that a replication of a run starts from, and how they are compared with what was recorded of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.fitted_run import MEND, check_same_run, require_all_outputs
from lesde_infer.observed import FEATURE_METRICS, METRICS, observe
from lesde_infer.replication_path import ReplicationPath
from lesde_infer.sample_noise import SampleNoise, recorded_sample_noise
from lesde_infer.separability import class_means
from lesde_infer.snapshots import MINIMAL_SAMPLES, fed_classifier, present_samples, read_record

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit


@dataclass(frozen=True)
class ReplicatedSamples:
    """The chosen samples at the first record, from which the paths start, and what the paths are conditioned on.

    Attributes
    ----------
    samples : array, shape (sample,)
        Which of the recorded samples.
    features : array, shape (sample, feature)
        Their features at the first record of the path.
    labels, groups : array, shape (sample,)
        Classes by the fit's grouping, as recorded, and the same numbered 0..K−1 without gaps.
    given_labels : array, shape (sample,)
        What they are trained as.
    layer : str
        The layer that was fitted.
    is_logits : bool
        Whether it holds the logits.
    n_classes : int
        K.
    path : ReplicationPath
        Points in time that paths pass.
    classifier : tuple of arrays or None
        Weight and bias at each point of the path, for impact R on a hidden layer only.
    noise : SampleNoise or None
        Which samples are shaken together (`lesde_infer.sample_noise`).
    """

    samples: Int[np.ndarray, " sample"]
    features: Float[np.ndarray, "sample feature"]
    labels: Int[np.ndarray, " sample"]
    groups: Int[np.ndarray, " sample"]
    given_labels: Int[np.ndarray, " sample"]
    layer: str
    is_logits: bool
    n_classes: int
    path: ReplicationPath
    classifier: tuple[Float[np.ndarray, "point class_ feature"], Float[np.ndarray, "point class_"]] | None
    noise: SampleNoise | None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that can be taken of a simulated path: those of the network where its logits follow from it."""
        of_network = () if self.classifier is None and not self.is_logits else ("network_accuracy", "nc4")
        of_classifier = () if self.classifier is None else ("nc3",)
        return tuple(name for name in METRICS if name in (*FEATURE_METRICS, *of_network, *of_classifier))

    def measure(
        self,
        features: Float[np.ndarray, "sample feature"],
        record: int,
        present: Bool[np.ndarray, " sample"],
        metrics: tuple[str, ...],
    ) -> dict[str, float]:
        """Take metrics of the features, simulated or recorded, of those samples that are present at a record."""
        features, labels = features[present], self.labels[present]
        if self.classifier is None:
            return observe(features, labels, metrics=metrics, logits=features)
        weight, bias = (part[self.path.place(record)] for part in self.classifier)
        return observe(features, labels, metrics=metrics, logits=features @ weight.T + bias, classifier=weight)

    def class_means(
        self, features: Float[np.ndarray, "sample feature"], present: Bool[np.ndarray, " sample"]
    ) -> Float[np.ndarray, "class_ feature"]:
        """Return class means over those samples that are present."""
        return class_means(features[present], self.groups[present], self.n_classes)

    def comparable(
        self, recording: Recording, records: Int[np.ndarray, " record"]
    ) -> tuple[Int[np.ndarray, " kept"], list[Float[np.ndarray, "sample feature"]], list[Bool[np.ndarray, " sample"]]]:
        """Read the samples at some records; keep records that hold two of each class, and say which samples they hold.

        Raises
        ------
        InputError
            If there is no such record.
        """
        kept, recorded, held = [], [], []
        for record in records.tolist():
            features = read_record(recording, self.layer, record)[self.samples]
            present = present_samples(features)
            if np.bincount(self.groups[present], minlength=self.n_classes).min() >= MINIMAL_SAMPLES:
                kept.append(record)
                recorded.append(features)
                held.append(present)
        if not kept:
            raise InputError(
                f"{recording.path}: no record to compare at holds two samples of each class of those that the first "
                "record fitted holds; compare at more records, or fit a stretch without gaps (--until)"
            )
        return np.array(kept), recorded, held


def choose_samples(fit: "Fit", recording: Recording, max_samples_per_class: int, seed: int) -> ReplicatedSamples:
    """Read what paths start from, after checking that the recording is the one that was fitted.

    Parameters
    ----------
    fit : Fit
    recording : Recording
    max_samples_per_class : int
        Larger classes are thinned to a random choice of this many.
    seed : int
        Fixes the choice.

    Raises
    ------
    InputError
        If the recording is not the one that was fitted.
    """
    layer, group = fit.settings.layer, fit.settings.group
    labels = recording.labels if group == "labels" else recording.given_labels
    check_same_run(fit, recording, labels)
    _, groups = np.unique(labels, return_inverse=True)
    path = ReplicationPath.of(fit)
    is_logits, classifier = layer == recording.logits, None
    if fit.settings.impact == "R":
        require_all_outputs(recording, fit.n_classes, group)
        if not is_logits:
            found = fed_classifier(recording, layer)
            if found is None:
                raise InputError(f"{recording.path}: /classifier is not what layer {layer!r} feeds; {MEND}")
            classifier = (
                found.weight[path.last_records].astype(np.float64),
                found.bias[path.last_records].astype(np.float64),
            )
    generator = np.random.default_rng([seed, 0])
    features = read_record(recording, layer, path.first_record)
    present = present_samples(features)
    members = [np.flatnonzero((groups == position) & present) for position in range(fit.n_classes)]
    samples = np.sort(np.concatenate([generator.permutation(own)[:max_samples_per_class] for own in members]))
    noise = recorded_sample_noise(
        recording,
        layer,
        samples,
        groups[samples],
        path.last_records,
        np.arange(len(path.lengths)),
        by_parts=fit.settings.within == "spanned",
    )
    return ReplicatedSamples(
        samples=samples,
        features=features[samples],
        labels=labels[samples],
        groups=groups[samples],
        given_labels=recording.given_labels[samples],
        layer=layer,
        is_logits=is_logits,
        n_classes=fit.n_classes,
        path=path,
        classifier=classifier,
        noise=noise,
    )
