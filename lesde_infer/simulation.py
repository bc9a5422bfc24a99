"""Simulate one path of the LE-SDE, or of the LE-ODE, for given curves, and write it as a recording."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.new_file import refuse_existing
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.dynamics import simulate_records
from lesde_infer.impacts import IMPACTS, Impact
from lesde_infer.interval_rates import IntervalRates

Curve = float | Callable[[float], float]

FIRST_SCALE = 0.1


def simulate(
    out: str | os.PathLike[str],
    *,
    n_classes: int,
    samples_per_class: int | Sequence[int],
    steps: Int[np.ndarray, "time"],
    alpha: Curve,
    beta: Curve,
    kappa: Curve,
    global_scale: Curve,
    class_scale: Curve,
    individual_scale: Curve,
    impact: Impact,
    first_features: Float[np.ndarray, "sample feature"] | None = None,
    n_features: int | None = None,
    label_noise: float = 0.0,
    class_frequencies: Sequence[float] | None = None,
    seed: int = 0,
    kappa_across: Curve | None = None,
    individual_scale_across: Curve | None = None,
    pull: Curve | None = None,
    dof: float = np.inf,
    substeps: int = 1,
    noise: bool = True,
    force: bool = False,
) -> Recording:
    """Simulate one path of the LE-SDE and write it to a recording.

    Between two records rates and scales are constant, at their values in the middle of the interval.

    Parameters
    ----------
    out
        File to make.
    n_classes
        Number K of classes.
    samples_per_class
        Samples in each class: one number for all, or K numbers.
    steps
        (T,) increasing steps of the records; they are the time as well.
    alpha, beta
        Elasticity within and between classes, per step: numbers, or functions of the step.
    kappa
        Rate at which deviations from the class mean grow, per step.
    global_scale, class_scale, individual_scale
        Noise of the mean of the class means, of their contrasts and of the deviations within classes
        (`lesde_infer.dynamics`), per feature and per square root of a step.
    impact
        `I`, `L` or `R`; under `L` and `R` the features are K logits.
    first_features
        (n, p) features at the first record, class by class; independent normal, of scale 0.1, if None.
    n_features
        Number p of features, K by default; not K only under impact `I`.
    label_noise
        Probability that a sample is trained under a label drawn evenly from the other classes.
    class_frequencies
        How often training draws each class, K positive numbers with sum 1, kept in the recording; None if all alike.
    seed
        Seed of first features, label noise and path.
    kappa_across, individual_scale_across
        Growth and noise of deviations across the span of the class means (`lesde_infer.deviations`); `kappa` and
        `individual_scale` are then those along it. Where one is left out it is as along, and where both are deviations
        are alike in all directions.
    pull
        Rate at which samples are moved by their own residuals, per step, under impact `R`.
    dof
        Degrees of freedom of each interval's Student-t noise; infinity is Gaussian.
    substeps
        Steps per interval of the integrator of impact `R`, which is of first order; `I` and `L` are exact.
    noise
        False gives the LE-ODE.
    force
        Replace an existing file.

    Returns
    -------
    Recording
        The open recording. Its layer is called `logits` if it has K features and `features` otherwise.

    Raises
    ------
    InputError
        Where the input does not fit together, or the path leaves the range of double precision.

    References
    ----------
    Zhang, Wang and Su, "Imitating Deep Learning Dynamics via Locally Elastic Stochastic Differential
    Equations", NeurIPS 2021, arXiv 2110.05960, section 2.
    """
    refuse_existing(Path(out), force)
    if impact not in IMPACTS:
        raise InputError(f"impact is {impact!r}; give one of {', '.join(IMPACTS)}")
    if not 0 <= label_noise <= 1:
        raise InputError(f"label_noise is {label_noise}; give a probability")
    if n_classes < 2:
        raise InputError(f"n_classes is {n_classes}; local elasticity compares at least 2 classes")
    times = np.asarray(steps, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.all(np.diff(times) > 0):
        raise InputError("steps: give at least 2 steps, each later than the one before")
    labels = _labels(n_classes, samples_per_class)
    generator = np.random.default_rng(seed)
    given_labels = _corrupt(labels, n_classes, label_noise, generator)
    if first_features is None:
        width = n_classes if n_features is None else n_features
        first_features = FIRST_SCALE * generator.normal(size=(len(labels), width))
    elif n_features is not None and np.shape(first_features)[1:] != (n_features,):
        raise InputError(f"first_features has shape {np.shape(first_features)}, but n_features is {n_features}")

    middles, lengths = (times[1:] + times[:-1]) / 2, np.diff(times)

    def at_middles(name: str, curve: Curve) -> Float[np.ndarray, "one interval"]:
        values = [float(curve(time)) if callable(curve) else float(curve) for time in middles.tolist()]
        if not np.isfinite(values).all():
            raise InputError(f"{name} is not finite at step {middles[np.argmin(np.isfinite(values))]}")
        return np.array([values])

    def optional(name: str, curve: Curve | None, otherwise: Curve | None) -> Float[np.ndarray, "one interval"] | None:
        chosen = otherwise if curve is None else curve
        return None if chosen is None else at_middles(name, chosen)

    by_parts = kappa_across is not None or individual_scale_across is not None
    scale_across = optional("individual_scale_across", individual_scale_across, individual_scale if by_parts else None)
    degrees = np.array([dof])
    rates = IntervalRates.from_elasticity(
        at_middles("alpha", alpha),
        at_middles("beta", beta),
        at_middles("kappa", kappa),
        n_classes=n_classes,
        global_sd=at_middles("global_scale", global_scale) * np.sqrt(lengths),
        class_sd=at_middles("class_scale", class_scale) * np.sqrt(lengths),
        individual_sd=at_middles("individual_scale", individual_scale) * np.sqrt(lengths),
        global_dof=degrees,
        class_dof=degrees,
        individual_dof=degrees,
        kappa_across=optional("kappa_across", kappa_across, kappa if by_parts else None),
        individual_sd_across=None if scale_across is None else scale_across * np.sqrt(lengths),
        pull=optional("pull", pull, None),
    )
    path = simulate_records(
        first_features,
        labels,
        given_labels,
        lengths,
        rates,
        impact,
        seed=seed,
        keep=np.arange(len(times)),
        n_classes=n_classes,
        class_frequencies=class_frequencies,
        substeps=substeps,
        noise=noise,
    )[0]
    lost = np.flatnonzero(np.isnan(path).any(axis=(1, 2)))
    if lost.size:
        raise InputError(f"simulation: features exceed double precision at step {steps[lost[0]]}; lower alpha or kappa")
    layer = "logits" if path.shape[2] == n_classes else "features"
    settings = {
        "simulated": "LE-SDE" if noise else "LE-ODE",
        "impact": impact,
        "seed": seed,
        "label_noise": label_noise,
        "dof": dof,
        **{
            name: "curve" if callable(curve) else curve
            for name, curve in (
                ("alpha", alpha),
                ("beta", beta),
                ("kappa", kappa),
                ("global_scale", global_scale),
                ("class_scale", class_scale),
                ("individual_scale", individual_scale),
                ("kappa_across", kappa_across),
                ("individual_scale_across", individual_scale_across),
                ("pull", pull),
            )
            if curve is not None
        },
    }
    written = write_recording(
        out,
        steps,
        labels,
        {layer: path},
        logits="logits" if layer == "logits" else None,
        given_labels=given_labels,
        class_frequencies=class_frequencies,
        provenance=settings,
        force=force,
    )
    return Recording(written)


def _labels(n_classes: int, samples_per_class: int | Sequence[int]) -> Int[np.ndarray, "sample"]:
    """Return the classes of the samples, in order of class."""
    sizes = np.asarray(samples_per_class)
    if sizes.shape not in ((), (n_classes,)) or not np.issubdtype(sizes.dtype, np.integer) or sizes.min() < 1:
        raise InputError(f"samples_per_class is {samples_per_class}; give one positive number, or {n_classes}")
    return np.repeat(np.arange(n_classes), np.broadcast_to(sizes, n_classes))


def _corrupt(
    labels: Int[np.ndarray, "sample"], n_classes: int, probability: float, generator: np.random.Generator
) -> Int[np.ndarray, "sample"]:
    """Move labels, each with the given probability, to one of the other classes."""
    moved = generator.random(len(labels)) < probability
    offsets = generator.integers(1, n_classes, size=len(labels))
    return np.where(moved, (labels + offsets) % n_classes, labels)
