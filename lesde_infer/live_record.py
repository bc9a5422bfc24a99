"""One record after the other, as a recording of which only the present record is known."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.reduced_records import Classifier, Features, ReducedSource


class _Now:
    """An array whose only record is the present one."""

    def __init__(self, value: Float[np.ndarray, "*shape"]) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.value.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    def __getitem__(self, record: int) -> Float[np.ndarray, "*shape"]:
        return self.value


class LiveClassifier:
    """The last linear layer at the present record; attributes are those of `data_tools.RecordedClassifier`."""

    def __init__(self, found: Classifier, layer: str | None) -> None:
        assert found is not None  # noqa: S101  (made of one that there is)
        self.weight, self.bias, self.layer = _Now(np.asarray(found[0])), _Now(np.asarray(found[1])), layer


class LiveRecord:
    """What `lesde_infer.snapshots` reads of a recording, at the present record, which is its record 0."""

    def __init__(self, source: ReducedSource, features: Features, classifier: Classifier) -> None:
        self.path, self.labels, self.given_labels = source.path, source.labels, source.given_labels
        self.logits, self.class_frequencies = source.logits, source.class_frequencies
        self._classifier_layer = source.classifier_layer
        self.steps = np.zeros(1, dtype=np.int64)
        self.show(0, features, classifier)
        outputs = [] if self.logits is None else [self.features(self.logits).shape[2]]
        self.n_classes = max(int(self.labels.max()) + 1, int(self.given_labels.max()) + 1, *outputs)

    def show(self, step: int, features: Features, classifier: Classifier) -> None:
        """Go on to a record."""
        self.steps[0] = step
        self._features = {name: _Now(np.asarray(values)) for name, values in features.items()}
        self.classifier = None if classifier is None else LiveClassifier(classifier, self._classifier_layer)

    @property
    def layers(self) -> list[str]:
        """Recorded layers."""
        return list(self._features)

    def features(self, layer: str) -> _Now:
        """Return the features of a layer."""
        if layer not in self._features:
            raise InputError(f"{self.path}: layer '{layer}' is not recorded; choose of {', '.join(self.layers)}")
        return self._features[layer]

    def probe_labels(self, group: Literal["labels", "given_labels"]) -> Int[np.ndarray, " sample"]:
        """Return the classes of all samples."""
        return self.labels if group == "labels" else self.given_labels

    def check_finite(self, layer: str, until: int | None = None) -> None:
        """Say that a layer holds what is not finite; asked where it does."""
        raise InputError(
            f"{self.path}: layer {layer} holds values that are infinite or not a number at step {self.steps[0]}; "
            "a reduced recording takes none"
        )
