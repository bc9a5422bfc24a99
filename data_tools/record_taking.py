"""Evaluate a network for one record: features, the classifier, and the numbers that go with them."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import logsumexp
from torch import nn

from data_tools.drift_measures import class_means, contrasts, mean_residuals
from data_tools.errors import InputError
from data_tools.probe import Probe, ProbeResult, evaluate_probe
from data_tools.recording_schema import check_labels
from data_tools.training_state import undisturbed


@dataclass(frozen=True)
class Record:
    """All that is known at one moment.

    Attributes
    ----------
    features
        For each layer (n, p).
    classifier
        Weight (K, p) and bias (K,) of the last layer, where they are recorded.
    scalars
        Numbers by name.
    time
        The moment as a time.
    """

    features: dict[str, Float[np.ndarray, "sample _"]]
    classifier: tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, " class_"]] | None
    scalars: dict[str, float]
    time: float


class RecordTaker:
    """Takes records of a network, always in the same way.

    Parameters
    ----------
    probe, layers
        Samples and layers.
    n_classes
        K by the probe's labels.
    logits, classifier
        As given to `data_tools.FeatureRecorder`.
    scalars
        Functions called for a number each.
    time
        ``"steps"``, or a function that returns the time now.

    Attributes
    ----------
    logits : str or None
        The layer that holds the logits; where it was not given it is found by `take_first`.
    classifier_layer : str or None
        The layer that feeds the classifier, likewise.
    """

    def __init__(
        self,
        probe: Probe,
        layers: Sequence[str],
        n_classes: int,
        *,
        logits: str | None,
        classifier: Literal["auto"] | str | None,
        scalars: Mapping[str, Callable[[], float]],
        time: Literal["steps"] | Callable[[], float],
    ) -> None:
        for role, name in (("logits", logits), ("classifier", None if classifier == "auto" else classifier)):
            if name is not None and name not in layers:
                raise InputError(f"{role}={name!r} is not among the recorded layers {', '.join(layers)}; add it")
        if isinstance(time, str) and time != "steps":
            raise InputError(f"time={time!r} is neither 'steps' nor a function; give one of them")
        self._probe, self._layers, self._n_classes = probe, list(layers), n_classes
        self._functions, self._time = dict(scalars), time
        self._classifier, self._records_classifier = classifier, False
        self.logits = logits
        self.classifier_layer: str | None = None

    def take_first(self, model: nn.Module, step: int) -> Record:
        """Take a record, and settle which layer holds the logits and which feeds the classifier.

        Raises
        ------
        InputError
            If a layer does not run exactly once per pass, a label lies beyond the logits, or the classifier is not what
            it is said to be.
        """
        candidate = self.logits or self._layers[-1]
        linear = _linear_layer(model, candidate)
        result = evaluate_probe(model, self._probe, self._layers, linear)
        if self.logits is None and result.features[candidate].shape[1] == self._n_classes:
            self.logits = candidate
        if self.logits is not None:
            width = result.features[self.logits].shape[1]
            check_labels(self._probe.labels, self._probe.given_labels, "the probe's ", width)
        x = result.classifier_input
        has_classifier = self.logits is not None and linear is not None and x is not None
        feeding = [name for name, array in result.features.items() if x is not None and np.array_equal(array, x)]
        if self._classifier == "auto":
            self._records_classifier = has_classifier
            self.classifier_layer = feeding[0] if feeding and has_classifier else None
        elif self._classifier is not None:
            if not has_classifier:
                raise InputError(
                    f"classifier={self._classifier!r} needs logits that are the output of a Linear layer; name that "
                    "layer as logits, or give classifier=None"
                )
            if self._classifier not in feeding:
                raise InputError(
                    f"classifier={self._classifier!r} is not what goes into {candidate!r}; record "
                    f"{candidate + ':input'!r} and name it instead"
                )
            self._records_classifier, self.classifier_layer = True, self._classifier
        return self._complete(model, result, step)

    def take(self, model: nn.Module, step: int) -> Record:
        """Take a record."""
        return self._complete(model, evaluate_probe(model, self._probe, self._layers), step)

    def _complete(self, model: nn.Module, result: ProbeResult, step: int) -> Record:
        """Add to the features what else belongs to a record."""
        scalars: dict[str, float] = {}
        if self.logits is not None:
            scalars |= loss_and_accuracy(result.features[self.logits], self._probe.given_labels)
        with undisturbed(model):
            scalars |= {name: float(function()) for name, function in self._functions.items()}
            time = float(step) if isinstance(self._time, str) else float(self._time())
        linear = _linear_layer(model, self.logits) if self._records_classifier and self.logits else None
        return Record(result.features, None if linear is None else weight_and_bias(linear), scalars, time)


def describe(model: nn.Module, layers: Sequence[str], probe: Probe) -> dict[str, object]:
    """Return what is kept of a network, its probe and the libraries as provenance."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "python": platform.python_version(),
        "model_class": type(model).__qualname__,
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": list(layers),
        **probe.describe(),
    }


def class_states(
    features: Mapping[str, Float[np.ndarray, "sample _"]], logits: str | None, given_labels: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, "class_ feature"]:
    """Return where the classes are, as an adaptive schedule watches them.

    Parameters
    ----------
    features
        For each layer (n, p), as stored.
    logits
        The layer that holds the logits, if any.
    given_labels
        What each sample is trained as: its class here.

    Returns
    -------
    (K', p) float64
        Of the classes that have samples: class means of the residuals, or else class means of the last layer minus
        their mean over classes.
    """
    if logits is not None:
        residuals = mean_residuals(features[logits], given_labels, given_labels)
        return residuals[np.unique(given_labels)]
    _, classes = np.unique(given_labels, return_inverse=True)
    last = list(features.values())[-1]
    return contrasts(class_means(last, classes, int(classes.max()) + 1))


def loss_and_accuracy(
    logits: Float[np.ndarray, "sample class_"], labels: Int[np.ndarray, " sample"]
) -> dict[str, float]:
    """Return the mean cross-entropy in nats as ``loss`` and the share of right answers as ``accuracy``."""
    logits = logits.astype(np.float64)
    of_label = logits[np.arange(labels.size), labels]
    return {
        "loss": float(np.mean(logsumexp(logits, axis=1) - of_label)),
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
    }


def weight_and_bias(
    linear: nn.Linear,
) -> tuple[Float[np.ndarray, "class_ feature"], Float[np.ndarray, " class_"]]:
    """Copy weight and bias of a linear layer; a missing bias is 0."""
    weight = _as_numpy(linear.weight)
    return weight, np.zeros(len(weight), weight.dtype) if linear.bias is None else _as_numpy(linear.bias)


def _as_numpy(tensor: torch.Tensor) -> Float[np.ndarray, "*shape"]:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy().copy()


def _linear_layer(model: nn.Module, layer: str) -> nn.Linear | None:
    module = dict(model.named_modules()).get(layer)
    return module if isinstance(module, nn.Linear) else None
