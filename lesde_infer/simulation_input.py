"""What a simulation starts from, checked and arranged: samples and their labels, intervals, classifiers.

tests/lesde_infer/test_dynamics.py gives each check what it refuses.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording_schema import check_class_frequencies
from lesde_infer._jax import jnp
from lesde_infer.integrators import Classes, Readout
from lesde_infer.interval_rates import IntervalRates


def arrange_classes(
    groups: Int[np.ndarray, "sample"],
    given_labels: Int[np.ndarray, "sample"],
    n_classes: int,
    frequencies: Sequence[float] | None,
) -> Classes:
    """Prepare the averaging matrices of `Classes`."""
    membership = np.eye(n_classes)[np.asarray(groups)]
    averages = membership / membership.sum(axis=0)
    targets = averages.T @ np.eye(n_classes)[np.asarray(given_labels)]
    shares = None
    if frequencies is not None:
        shares = jnp.asarray(check_class_frequencies(frequencies, n_classes, "class_frequencies"))
    return Classes(jnp.asarray(groups), jnp.asarray(averages), jnp.asarray(targets), shares)


def factor_classifiers(
    first: Float[np.ndarray, "sample feature"],
    lengths: Float[np.ndarray, "interval"],
    n_classes: int,
    classifier: tuple[Float[np.ndarray, "time class_ feature"], Float[np.ndarray, "time class_"]] | None,
) -> Readout:
    """Factor the classifier at the start of each interval, W = A Z by the QR decomposition of Wᵀ."""
    n_features, n_records = first.shape[1], len(lengths) + 1
    if classifier is None:
        if n_features != n_classes:
            raise InputError(
                f"impact R: {n_features} features are not {n_classes} logits; give the classifier of this layer"
            )
        identity = np.broadcast_to(np.eye(n_classes), (len(lengths), n_classes, n_classes))
        return Readout(jnp.asarray(identity), jnp.asarray(identity), jnp.zeros((len(lengths), n_classes)))
    weight, bias = (np.asarray(part, dtype=np.float64) for part in classifier)
    if weight.shape != (n_records, n_classes, n_features) or bias.shape != (n_records, n_classes):
        raise InputError(
            f"classifier: weight {weight.shape} and bias {bias.shape} do not fit {n_records} records, "
            f"{n_classes} classes and {n_features} features"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise InputError("classifier: weight or bias is not finite; drop the records where training diverged")
    basis, triangle = np.linalg.qr(weight[:-1].swapaxes(1, 2))
    return Readout(jnp.asarray(triangle.swapaxes(1, 2)), jnp.asarray(basis.swapaxes(1, 2)), jnp.asarray(bias[:-1]))


def check_samples(
    first: Float[np.ndarray, "sample feature"],
    groups: Int[np.ndarray, "sample"],
    given_labels: Int[np.ndarray, "sample"],
    n_classes: int,
) -> None:
    """Refuse features and labels that do not describe samples of every one of at least two classes."""
    if n_classes < 2:
        raise InputError(f"n_classes is {n_classes}; local elasticity compares at least 2 classes")
    if first.ndim != 2 or 0 in first.shape:
        raise InputError(f"first_features has shape {first.shape}; give one row per sample, one column per feature")
    if not np.isfinite(first).all():
        raise InputError(f"first_features: sample {np.argwhere(~np.isfinite(first))[0, 0]} is not finite")
    for name, values in (("groups", np.asarray(groups)), ("given_labels", np.asarray(given_labels))):
        if values.shape != first.shape[:1] or not np.issubdtype(values.dtype, np.integer):
            raise InputError(
                f"{name}: give one integer per sample ({first.shape[0]}), not {values.dtype} {values.shape}"
            )
        if values.min() < 0 or values.max() >= n_classes:
            raise InputError(f"{name}: labels run from {values.min()} to {values.max()}, not within 0..{n_classes - 1}")
    missing = np.flatnonzero(np.bincount(np.asarray(groups), minlength=n_classes) == 0)
    if missing.size:
        raise InputError(f"groups: class {missing[0]} has no sample; number the classes 0..K-1 without gaps")


def check_intervals(
    lengths: Float[np.ndarray, "interval"], rates: IntervalRates, kept: Int[np.ndarray, "kept"]
) -> None:
    """Refuse intervals that do not fit the rates or do not move forward, and records that do not exist."""
    if lengths.shape != (rates.n_intervals,):
        raise InputError(
            f"interval_lengths has shape {lengths.shape}, but the rates have {rates.n_intervals} intervals"
        )
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        interval = int(np.argmin(np.isfinite(lengths) & (lengths > 0)))
        raise InputError(f"interval_lengths: interval {interval} is {lengths[interval]}; times must increase")
    if kept.ndim != 1 or kept.size == 0 or not np.issubdtype(kept.dtype, np.integer):
        raise InputError("keep: give the indices of the records to return, at least one")
    if kept.min() < 0 or kept.max() > rates.n_intervals:
        raise InputError(f"keep: records run from 0 to {rates.n_intervals}, not {kept.min()} to {kept.max()}")
