"""Simulate records of the LE-SDE sample by sample, for every posterior draw of its rates.

With D_k the drift of the mean m_k of class k (`lesde_infer.integrators`), sample i of class g drifts by

    dx_i = D_g dt + κ (x_i − m_g) dt + σ_g dB + σ_c (dB_g − mean_k dB_k) + σ_i (dW_i − class mean of dW).

Where rates tell deviations along the span of the class means from those across it, κ and σ_i are of these parts
(`lesde_infer.deviations`), the span being that of the simulated class means at the start of each interval; under R
samples may besides be pulled by their own residuals.

The three noises are orthogonal strata: the first moves only the mean of the class means, the second only
contrasts between class means, the third only deviations from them. Under I and R the second is two: noise along the
contrasts of the drift has a scale of its own, apart from noise across them, which may lie along few directions
(`lesde_infer.noise_directions`), and the third may shake samples together in patterns
(`lesde_infer.sample_noise`). In each interval between two records a stratum's increment is multivariate Student-t: all
its components share one factor √(ν/χ²_ν).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from data_tools.errors import InputError
from lesde_infer._jax import jax, jnp
from lesde_infer.common_growth import CouplingArrays, GrowthCoupling, contrast_growth, size_growth
from lesde_infer.cores import n_cores
from lesde_infer.deviations import (
    DeviationRates,
    contrast_axes,
    move,
    move_along_with,
    orthogonal_push,
    residual_push,
    split,
)
from lesde_infer.impacts import IMPACTS, Impact
from lesde_infer.integrators import Classes, Readout, isotropic_means, residual_means, simplex_means
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.kept_traces import kept_trace
from lesde_infer.noise_directions import ClassMeanNoise
from lesde_infer.noise_memory import NoiseMemory, remember
from lesde_infer.path_noise import NoiseAxes, noise_axes, stratified_noise, student_factors
from lesde_infer.sample_noise import MovementArrays, SampleNoise, patterned, sized
from lesde_infer.simulation_input import arrange_classes, check_intervals, check_samples, factor_classifiers

WORKING_BYTES = 256 * 2**20
# Arrays as large as the features or the logits of one record that a draw needs at the same time.
WORKING_COPIES = 8
TINY_CONTRAST = 1e-100


class _DrawRates(NamedTuple):
    """Rates γ, g, noise of class means (Student-t factors included), deviations by part, and pattern of elasticity.

    Of one draw, or a batch of them.
    """

    drift: Float[Array, "*draw rate interval"]
    sd: Float[Array, "*draw stratum interval"]
    kappa: Float[Array, "*draw part interval"]
    individual_sd: Float[Array, "*draw part interval"]
    pull: Float[Array, "*draw interval"] | None
    pattern: Float[Array, "*draw interval class_ class_"] | None


class _State(NamedTuple):
    """Class means, deviations, and the parts of past noise that go again: of class means, and of common growth."""

    means: Float[Array, "class_ feature"]
    deviations: Float[Array, "feature sample"]
    fluctuation: Float[Array, "class_ feature"]
    growth: Float[Array, ""]


def simulate_records(
    first_features: Float[np.ndarray, "sample feature"],
    groups: Int[np.ndarray, "sample"],
    given_labels: Int[np.ndarray, "sample"],
    interval_lengths: Float[np.ndarray, "interval"],
    rates: IntervalRates,
    impact: Impact,
    *,
    seed: int,
    keep: Int[np.ndarray, "kept"],
    n_classes: int,
    classifier: tuple[Float[np.ndarray, "time class_ feature"], Float[np.ndarray, "time class_"]] | None = None,
    class_frequencies: Sequence[float] | None = None,
    substeps: int = 1,
    noise: bool = True,
    stretched: bool = False,
    memory: NoiseMemory | None = None,
    directions: ClassMeanNoise | None = None,
    sample_noise: SampleNoise | None = None,
    common_growth: GrowthCoupling | None = None,
) -> Float[np.ndarray, "draw kept sample feature"]:
    """Simulate the samples' features from their first record on, under each draw of the rates.

    Parameters
    ----------
    first_features
        Features at record 0, where every draw starts.
    groups
        Class of each sample, 0 to K − 1; each class needs a sample.
    given_labels
        What each sample is trained as, 0 to K − 1; used by the residual impact R alone.
    interval_lengths
        Positive lengths of the T − 1 intervals between records, in the unit of time of the rates.
    rates
        Rates and noise of every draw and interval.
    impact
        `I` (class means), `L` (along e_k − 1/K; features are K logits) or `R` (residuals of the softmax).
    seed
        Draw d and interval t use the key of the seed with d and t folded in: a draw does not depend on how
        many others there are, nor on which records are kept.
    keep
        Indices, from 0 to T − 1, of the records to return, in this order.
    n_classes
        Number K of classes.
    classifier
        Weights and biases, at every record, of the linear classifier on these features, for impact R on a
        hidden layer; those at an interval's start are used. None if the features are the logits.
    class_frequencies
        K positive numbers with sum 1: how often training draws each class; None if equally often.
    substeps
        Steps per interval of the integrator of impact R, which is of first order; `I` and `L` are exact.
    noise
        False gives the LE-ODE, the drift without its noise.
    stretched
        Deviations grow along with the contrasts between class means: κ is relative to the growth of these, and
        individual noise to the size of the deviations (`lesde_infer.deviations.move_along_with`).
    memory
        How much of the noise of class means stays; None, and all stays.
    directions
        Along which directions class means are shaken; None, and along all alike.
    sample_noise
        Which samples are shaken together; None, and each by itself, all alike.
    common_growth
        How contrasts between class means grow along themselves, and with deviations; None, and noise of contrasts
        knows nothing of these.

    Returns
    -------
    Float[np.ndarray, "draw kept sample feature"]
        Kept records. A record that left the range of double precision is all NaN.

    Raises
    ------
    InputError
        Where shapes, labels, intervals or kept records do not fit together.

    Notes
    -----
    Draws are simulated in batches whose working memory, kept records included, stays below 256 MiB
    (or that of one draw, if larger), besides the returned array.
    """
    first = np.asarray(first_features, dtype=np.float64)
    lengths = np.asarray(interval_lengths, dtype=np.float64)
    kept = np.asarray(keep)
    check_samples(first, groups, given_labels, n_classes)
    check_intervals(lengths, rates, kept)
    if rates.pull is not None and impact != "R":
        raise InputError(f"rates: samples are pulled by residuals, which impact {impact} has none of; use impact R")
    if impact not in IMPACTS:
        raise InputError(f"impact is {impact!r}; give one of {', '.join(IMPACTS)}")
    if seed < 0:
        raise InputError(f"seed is {seed}; give a whole number from 0 on")
    if substeps < 1:
        raise InputError(f"substeps is {substeps}; give at least 1")
    if impact == "L" and first.shape[1] != n_classes:
        raise InputError(f"impact L is for {n_classes} logits, but there are {first.shape[1]} features; use R or I")
    readouts = factor_classifiers(first, lengths, n_classes, classifier) if impact == "R" else None
    records, order = np.unique(kept, return_inverse=True)
    remembered = None if memory is None else memory.coefficients(lengths)
    program = _batch_program(impact, noise, stretched)
    shared: dict[str, Any] = {
        "first": jnp.asarray(first),
        "classes": arrange_classes(groups, given_labels, n_classes, class_frequencies),
        "given": jnp.asarray(given_labels),
        "lengths": jnp.asarray(lengths),
        "memory": None if remembered is None else jnp.asarray(remembered),
        "directions": noise_axes(directions, n_classes, first.shape[1]),
        "movements": None if sample_noise is None else sample_noise.arrays(),
        "coupling": None if common_growth is None or not noise else common_growth.arrays(lengths),
        "readouts": readouts,
        "records": jnp.asarray(records),
        "key": jax.random.key(seed),
        "substeps": jnp.asarray(substeps),
    }
    simulated = np.empty((rates.n_draws, len(records), *first.shape))
    batches = _batches(rates.n_draws, len(records), first.shape, n_classes)

    def simulate(draws: Int[np.ndarray, "draw"]) -> None:
        simulated[draws] = program(jnp.asarray(draws), _batch_rates(rates, draws, seed), **shared)

    # Once, before threads that would each compile it.
    program.lower(jnp.asarray(batches[0]), _batch_rates(rates, batches[0], seed), **shared).compile()
    with ThreadPoolExecutor(n_cores()) as pool:
        for done in [pool.submit(simulate, draws) for draws in batches]:
            done.result()
    simulated[~np.isfinite(simulated).all(axis=(2, 3))] = np.nan
    return simulated if np.array_equal(records, kept) else simulated[:, order]


def _batch_rates(rates: IntervalRates, draws: Int[np.ndarray, "draw"], seed: int) -> _DrawRates:
    """Collect what a batch of draws needs, and draw the Student-t factors of its noise."""
    names = ("global", "class", "impact", "individual")
    dof = np.stack([getattr(rates, f"{name}_dof") for name in names], axis=1)[draws]
    factors = student_factors(seed, draws, dof, rates.n_intervals)
    drift = np.stack([rates.gamma, rates.global_rate], axis=1)[draws]
    scales = factors[:, :3] * np.stack([rates.global_sd, rates.class_sd, rates.impact_sd], axis=1)[draws]
    kappa, individual_sd = rates.deviation_parts
    individual = factors[:, 3:] * individual_sd[draws]
    pattern = None if rates.pattern is None else jnp.asarray(rates.pattern[draws])
    pull = None if rates.pull is None else jnp.asarray(rates.pull[draws])
    return _DrawRates(
        drift=jnp.asarray(drift),
        sd=jnp.asarray(scales),
        kappa=jnp.asarray(kappa[draws]),
        individual_sd=jnp.asarray(individual),
        pull=pull,
        pattern=pattern,
    )


def _batches(n_draws: int, n_records: int, shape: tuple[int, ...], n_classes: int) -> list[Int[np.ndarray, "draw"]]:
    """Split draws into batches of one size, so that one compilation serves; the last one may repeat draws.

    As many at a time as there are cores take no more than `WORKING_BYTES`.
    """
    n_samples, n_features = shape
    floats = n_samples * (n_features * (n_records + WORKING_COPIES) + n_classes * WORKING_COPIES)
    n_batches = -(-n_draws // max(1, WORKING_BYTES // (8 * floats * n_cores())))
    n_batches = min(n_draws, -(-n_batches // n_cores()) * n_cores())  # all cores are busy to the end
    size = -(-n_draws // n_batches)
    return [np.minimum(np.arange(start, start + size), n_draws - 1) for start in range(0, n_draws, size)]


@lru_cache(maxsize=32)
def _batch_program(impact: Impact, noise: bool, stretched: bool) -> jax.stages.Wrapped:
    """Return the compiled form of `_run_batch` for these choices."""
    run_batch = partial(_run_batch, impact=impact, noise=noise, stretched=stretched)
    return jax.jit(kept_trace(run_batch, "simulated samples", impact, noise, stretched))


def _run_batch(
    draws: Int[Array, "draw"],
    rates: _DrawRates,
    *,
    first: Float[Array, "sample feature"],
    classes: Classes,
    given: Int[Array, "sample"],
    lengths: Float[Array, "interval"],
    memory: Float[Array, "stratum 3 interval"] | None,
    directions: NoiseAxes,
    movements: MovementArrays | None,
    coupling: CouplingArrays | None,
    readouts: Readout | None,
    records: Int[Array, "kept"],
    key: PRNGKeyArray,
    impact: Impact,
    substeps: Int[Array, ""],
    noise: bool,
    stretched: bool,
) -> Float[Array, "draw kept sample feature"]:
    """Simulate a batch of draws; `records` ascend, and intervals after the last are not simulated."""
    simulate_draw = partial(
        _run_draw,
        first=first,
        classes=classes,
        given=given,
        lengths=lengths,
        memory=memory,
        directions=directions,
        movements=movements,
        coupling=coupling,
        readouts=readouts,
        records=records,
        impact=impact,
        substeps=substeps,
        noise=noise,
        stretched=stretched,
    )
    return jax.vmap(lambda draw, own: simulate_draw(jax.random.fold_in(key, draw), own))(draws, rates)


def _run_draw(
    key: PRNGKeyArray,
    rates: _DrawRates,
    *,
    first: Float[Array, "sample feature"],
    classes: Classes,
    given: Int[Array, "sample"],
    lengths: Float[Array, "interval"],
    memory: Float[Array, "stratum 3 interval"] | None,
    directions: NoiseAxes,
    movements: MovementArrays | None,
    coupling: CouplingArrays | None,
    readouts: Readout | None,
    records: Int[Array, "kept"],
    impact: Impact,
    substeps: Int[Array, ""],
    noise: bool,
    stretched: bool,
) -> Float[Array, "kept sample feature"]:
    """Simulate one draw, as class means and deviations from them, which the strata keep apart."""

    def one_interval(interval: Int[Array, ""], state: _State) -> _State:
        means, deviations, fluctuation, growth_fluctuation = state
        gamma, global_rate = rates.drift[:, interval]
        pull = None if rates.pull is None else rates.pull[interval]
        own = DeviationRates(rates.kappa[:, interval], rates.individual_sd[:, interval], pull)
        axes = contrast_axes(means, deviations, jnp) if own.kappa.size > 1 else None
        parts = split(deviations, axes)
        length = lengths[interval]
        pattern, push = None if rates.pattern is None else rates.pattern[interval], None
        if impact == "I":
            moved = isotropic_means(means, gamma, global_rate, length, pattern, classes.weights)
        elif impact == "L":
            moved = simplex_means(means, gamma, global_rate, length, pattern, classes.weights)
        else:
            readout = jax.tree.map(lambda part: part[interval], readouts)
            if pull is not None:
                features = means[classes.groups].T + deviations
                push = orthogonal_push(parts, residual_push(features, readout, classes, given), axes)
            moved = residual_means(
                means,
                parts,
                gamma,
                global_rate,
                jnp.zeros_like(own.kappa) if stretched else own.kappa,
                length,
                readout=readout,
                classes=classes,
                substeps=substeps,
                pattern=pattern,
            )
        class_noise, individual_noise = jnp.zeros_like(means), None
        if noise:
            interval_key = jax.random.fold_in(key, interval)
            # Under L, or a matrix of elasticity, contrasts are one stratum in all directions, as where none moves.
            drift = jnp.zeros_like(means) if impact == "L" or pattern is not None else moved - means
            share = 0.0 if coupling is None else coupling.share[interval]
            scales = rates.sd[:, interval]
            class_noise, unit = stratified_noise(interval_key, scales, means, drift, classes, directions, share)
            if movements is None:
                individual_noise = split(unit, axes)
            else:
                unit = patterned(jax.random.fold_in(interval_key, 2), unit, movements, interval)
                individual_noise = sized(split(unit, axes), axes, len(means))
            if memory is not None:
                class_noise, fluctuation = remember(class_noise, fluctuation, memory[:, :, interval])
        moved_parts = None if stretched else move(parts, own, length, push=push, noise=individual_noise)
        if coupling is not None:
            size = None if moved_parts is None else size_growth(deviations, moved_parts)
            normal = jax.random.normal(jax.random.fold_in(interval_key, 3))
            grown, growth_fluctuation = contrast_growth(coupling, interval, normal, growth_fluctuation, size)
            class_noise = class_noise + grown * (means - means.mean(axis=0))
        after = moved + class_noise
        if moved_parts is None:
            pushed = None if push is None else split(push, axes)
            stretch = contrast_size(after) / jnp.maximum(contrast_size(means), TINY_CONTRAST)
            moved_parts = move_along_with(
                parts, own, length, stretch=stretch, axes=axes, push=pushed, noise=individual_noise
            )
        return _State(after, moved_parts, fluctuation, growth_fluctuation)

    def next_record(state: tuple[Array, _State], record: Int[Array, ""]) -> tuple[tuple[Array, _State], Array]:
        reached, moving = state
        after = jax.lax.fori_loop(reached, record, one_interval, moving)
        return (record, after), after.means[classes.groups] + after.deviations.T

    means = classes.averages.T @ first
    at_first = _State(means, (first - means[classes.groups]).T, jnp.zeros_like(means), jnp.zeros(()))
    start = (jnp.zeros((), dtype=records.dtype), at_first)
    _, features = jax.lax.scan(next_record, start, records)
    return features


def contrast_size(means: Float[Array, "class_ feature"]) -> Float[Array, ""]:
    """Return the Frobenius norm of the contrasts between class means."""
    return jnp.linalg.norm(means - means.mean(axis=0))
