"""All measures of separability and collapse by their metric names, the same for recorded and for simulated features."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from lesde_infer.collapse import between_norm, nc1, nc2_equiangular, nc2_equinorm, nc3, nc4, within_between_ratio
from lesde_infer.separability import (
    linear_accuracy,
    nearest_class_mean_accuracy,
    network_accuracy,
    network_predictions,
    pairwise_separable,
)

FEATURE_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "linear_separability": lambda features, labels: pairwise_separable(features, labels).share,
    "linear_accuracy": linear_accuracy,
    "ncm_accuracy": nearest_class_mean_accuracy,
    "nc1": nc1,
    "nc2_equinorm": nc2_equinorm,
    "nc2_equiangular": lambda features, labels: nc2_equiangular(features, labels).mean,
    "between_norm": between_norm,
    "within_between_ratio": within_between_ratio,
}
"""Metrics that need nothing but features and labels."""

METRICS = (
    "linear_separability",
    "linear_accuracy",
    "ncm_accuracy",
    "network_accuracy",
    "nc1",
    "nc2_equinorm",
    "nc2_equiangular",
    "nc3",
    "nc4",
    "between_norm",
    "within_between_ratio",
)
"""All metric names, in the order in which they are reported."""


def observe(
    features: Float[np.ndarray, "sample feature"],
    labels: Int[np.ndarray, " sample"],
    *,
    metrics: Sequence[str] = tuple(FEATURE_METRICS),
    logits: Float[np.ndarray, "sample class_"] | None = None,
    classifier: Float[np.ndarray, "class_ feature"] | None = None,
) -> dict[str, float]:
    """Measure separability and collapse of the features of one recorded or simulated step.

    Parameters
    ----------
    features : float array (sample, feature)
    labels : int array (sample,)
        The grouping: true or given labels.
    metrics : sequence of str
        Names out of `METRICS`.
    logits : float array (sample, class), optional
        Outputs of the network, needed by `network_accuracy` and `nc4`.
    classifier : float array (class, feature), optional
        Weight of the last layer, needed by `nc3`; features must be what it acts on.

    Returns
    -------
    dict of float
        Metric by name, in the order asked for; NaN where the features do not define it (see `lesde_infer.collapse`).

    Raises
    ------
    InputError
        For an unknown name, a metric whose logits or classifier is missing, or input a metric refuses.
    """
    values = {}
    for name in metrics:
        if name in FEATURE_METRICS:
            values[name] = FEATURE_METRICS[name](features, labels)
        elif name == "network_accuracy":
            values[name] = network_accuracy(_required(logits, name, "logits"), labels)
        elif name == "nc4":
            values[name] = nc4(features, labels, network_predictions(_required(logits, name, "logits")))
        elif name == "nc3":
            values[name] = nc3(features, labels, _required(classifier, name, "the weight of the classifier"))
        else:
            raise InputError(f"unknown metric {name!r}; choose among {', '.join(METRICS)}")
    return values


def _required(array: np.ndarray | None, metric: str, what: str) -> np.ndarray:
    if array is None:
        raise InputError(f"the metric {metric} needs {what}; record it, or leave the metric out")
    return array
