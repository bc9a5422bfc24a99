"""What will happen: fit a prefix of a recording, and simulate what follows it under posterior draws.

The prefix is fitted with curves that reach up to the horizon (`lesde_infer.extrapolation`). Each posterior draw gives
one path of the recorded samples, from their features at the prefix's last record on, under that draw's rates and noise
scales continued, with noise whose size in each interval is drawn anew (`lesde_infer.future_rates`). What is predicted
thus has the uncertainty of the parameters, of the curves beyond the record, and of the process.

Nothing recorded after the prefix enters a path, not even the classifier on a hidden layer, which is held as it was. Of
records that follow only the steps and times are used, to lay out the intervals; their features are looked at
afterwards, to score what was predicted (`lesde_infer.forecast_scores`) beside three others: that metrics stay
as they were, that they go on as they went, linearly in log t, and the paper's (`lesde_infer.moment_forecast`).

tests/lesde_infer/test_forecast.py checks that truth is covered, and that altering the future alters no draw.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.concurrent_sampling import FitProgress
from lesde_infer.curves import Curve
from lesde_infer.deviations import Within
from lesde_infer.dynamics import simulate_records
from lesde_infer.extrapolation import PriorWeight, prior_weight
from lesde_infer.fitted_run import check_same_run
from lesde_infer.forecast_result import Forecast
from lesde_infer.forecast_samples import ForecastSamples
from lesde_infer.forecast_scores import LATE_SHARE, LOGARITHMIC, SHARES, log_linear_extrapolation, score, scored
from lesde_infer.future_grid import FutureGrid, future_grid, prefix_end
from lesde_infer.future_rates import future_rates
from lesde_infer.impacts import Elasticity, Impact
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.moment_forecast import paper_forecast
from lesde_infer.momentum import DriveChoice
from lesde_infer.predictive import (
    BATCH_BYTES,
    LARGEST_FAILED_SHARE,
    SLOW_METRIC_DRAWS,
    PredictionError,
    separable_share,
)
from lesde_infer.snapshots import Grouping
from lesde_infer.stretching import measure_stretching
from lesde_infer.time_axis import TimeChoice

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

LARGEST_GROWTH = 1e6
"""Times the size of the features at the start: a path that goes beyond it has diverged, as training does."""

PAST_RECORDS = 8
"""Records of the last half of the prefix at which metrics are taken, for linear extrapolation and for plots."""


def forecast(
    path: str | os.PathLike[str],
    *,
    at: float,
    horizon: int | None = None,
    layer: str | None = None,
    impact: Impact = "R",
    elasticity: Elasticity = "homogeneous",
    curve: Curve = "gp",
    group: Grouping = "labels",
    within: Within = "spanned",
    class_frequencies: Sequence[float] | None = None,
    time: TimeChoice = "recorded",
    drive: DriveChoice = "auto",
    seed: int = 0,
    n_draws: int = 100,
    n_times: int = 6,
    max_samples_per_class: int = 200,
    n_fit_draws: int | None = None,
    allow_unconverged: bool = False,
    cache: bool = True,
    progress: FitProgress | None = None,
) -> Forecast:
    """Forecast what follows a prefix of a recording.

    Parameters
    ----------
    path : path
        A recording.
    at : float
        Where the prefix ends: a share of the recorded steps between 0 and 1, or an optimizer step within the record.
        The forecast starts at the last record up to there.
    horizon : int, optional
        Optimizer step up to which to forecast, by default the last record. It may lie beyond it.
    layer, impact, elasticity, curve, group, within, class_frequencies, time, drive
        What is fitted to the prefix, see `lesde_infer.fit`.

    Other Parameters
    ----------------
    seed : int
        Fixes all that is random.
    n_draws : int
        Posterior draws, each of which gives one path.
    n_times : int
        Steps at which metrics are taken, the horizon included.
    max_samples_per_class : int
        Larger classes are thinned to a random choice of this many.
    n_fit_draws : int, optional
        Draws of each chain; by default those of `lesde_infer.fit`.
    allow_unconverged : bool
        Forecast from a fit that misses its limits, and note it.
    cache : bool
        As of `lesde_infer.fit`.
    progress : callable, optional
        Called with stage, done and total.

    Raises
    ------
    InputError
        If `at` or the horizon makes no sense, or the prefix does not support what is asked.
    ConvergenceError
        If the posterior of the prefix misses its limits.
    PredictionError
        If more than a tenth of the paths leave the range of numbers or diverge.
    """
    from lesde_infer.inference import DRAWS
    from lesde_infer.inference import fit as run_fit

    _check_counts(seed=seed, n_draws=n_draws, n_times=n_times, max_samples_per_class=max_samples_per_class)
    with Recording(path) as recording:
        end = prefix_end(recording, at)
        planned = future_grid(recording, end, horizon, time)
        until = int(recording.steps[end])
    fitted = run_fit(
        path,
        layer=layer,
        impact=impact,
        elasticity=elasticity,
        curve=curve,
        group=group,
        within=within,
        until=until,
        class_frequencies=class_frequencies,
        time=time,
        drive=drive,
        horizon=float(planned.times[-1]),
        seed=seed,
        n_draws=DRAWS if n_fit_draws is None else n_fit_draws,
        allow_unconverged=allow_unconverged,
        cache=cache,
        progress=progress,
    )
    return continue_fit(
        fitted,
        path,
        horizon=int(planned.steps[-1]),
        n_draws=n_draws,
        n_times=n_times,
        max_samples_per_class=max_samples_per_class,
    )


def continue_fit(
    fit: "Fit",
    path: str | os.PathLike[str],
    *,
    horizon: int | None = None,
    n_draws: int = 100,
    n_times: int = 6,
    max_samples_per_class: int = 200,
) -> Forecast:
    """Forecast what follows the records of a fit that was made with a ``horizon``.

    Parameters
    ----------
    fit : Fit
    path : path
        The recording that was fitted; records after the last fitted one are looked at for scores alone.
    horizon, n_draws, n_times, max_samples_per_class
        As of `forecast`.

    Raises
    ------
    InputError
        If the fit has no horizon or an earlier one, or the recording is another.
    PredictionError
        As of `forecast`.
    """
    with Recording(path) as recording:
        labels = recording.labels if fit.settings.group == "labels" else recording.given_labels
        check_same_run(fit, recording, labels)
        return _continue(fit, recording, horizon, n_draws, n_times, max_samples_per_class)


def _continue(
    fit: "Fit", recording: Recording, horizon: int | None, n_draws: int, n_times: int, max_samples_per_class: int
) -> Forecast:
    """Simulate and measure what follows the record that a fit ends with."""
    seed, start = fit.settings.seed, int(fit.interval_starts[-1]) + 1
    grid = future_grid(recording, start, horizon, fit.settings.time)
    samples = ForecastSamples.of(fit, recording, start, max_samples_per_class, seed)
    chosen, metrics = grid.chosen(n_times), samples.metrics
    by_parts = fit.settings.within == "spanned"
    stretching = measure_stretching(
        recording, samples.layer, samples.all_groups, fit.times[: start + 1], by_parts=by_parts
    )
    rates = future_rates(fit, grid, stretching, n_draws, seed)
    stride = max(1, rates.n_draws // SLOW_METRIC_DRAWS)
    quick = tuple(name for name in metrics if name != "linear_accuracy")
    measured = []
    for draw, path in enumerate(_paths(fit, samples, rates, grid, chosen, seed)):
        for place, features in enumerate(path):
            is_full = place == len(path) - 1 or draw % stride == 0
            measured.append(samples.measure(features, metrics if is_full else quick))
    n_paths = len(measured) // len(chosen)
    predicted = {
        name: np.array([values.get(name, np.nan) for values in measured]).reshape(n_paths, -1) for name in metrics
    }
    records = grid.records[chosen]
    at_records = [
        samples.recorded(recording, record, metrics) if record >= 0 else dict.fromkeys(metrics, np.nan)
        for record in records.tolist()
    ]
    past_records = _past_records(fit.steps, start)
    past_values = [samples.recorded(recording, record, metrics) for record in past_records.tolist()]
    observed = {name: np.array([values[name] for values in at_records]) for name in metrics}
    past = {name: np.array([values[name] for values in past_values]) for name in metrics}
    elapsed = fit.times[past_records] - fit.times[0]
    scores = {}
    if records[-1] >= 0:
        rivals = _rivals(past, elapsed, float(grid.times[-1] - fit.times[0]))
        ends = int(grid.steps[0]), int(grid.steps[-1])
        by_paper = paper_forecast(recording, samples.layer, fit.settings.group, samples.features, samples.groups, *ends)
        of_paper = {} if by_paper is None else samples.measure(by_paper, metrics)
        for name in metrics:
            rivals[name]["paper"] = of_paper.get(name, float("nan"))
        scores = {
            name: score(name, predicted[name][:, -1], float(observed[name][-1]), rivals[name]) for name in metrics
        }
    probability, error = separable_share(predicted["linear_separability"][:, -1] == 1.0)
    weight = prior_weight(fit)
    return Forecast(
        fit=fit,
        steps=grid.steps[chosen],
        predicted=predicted,
        observed=observed,
        past_steps=fit.steps[past_records],
        past=past,
        at_step=int(grid.steps[0]),
        horizon_step=int(grid.steps[-1]),
        probability_separable=probability,
        probability_separable_error=error,
        scores=scores,
        prior_weight=weight,
        left_out=samples.left_out,
        n_failed_draws=rates.n_draws - n_paths,
        notes=_notes(fit, samples, weight, int(grid.steps[0])),
    )


def _paths(
    fit: "Fit",
    samples: ForecastSamples,
    rates: IntervalRates,
    grid: FutureGrid,
    chosen: Int[np.ndarray, " chosen"],
    seed: int,
) -> Iterator[Float[np.ndarray, "chosen sample feature"]]:
    """Simulate a path for each draw, and yield those that stay in range."""
    n_draws, n_failed = rates.n_draws, 0
    largest = LARGEST_GROWTH * float(np.abs(samples.features).max())
    classifier = None
    if samples.held is not None:
        weight, bias = (np.broadcast_to(part, (len(grid.steps), *part.shape)) for part in samples.held)
        classifier = weight, bias
    growth = fit.common_growth
    coupling = None if growth is None else growth.ahead(fit.n_steps, fit.interval_lengths, grid.lengths)
    n_batches = min(n_draws, -(-n_draws * len(chosen) * samples.features.nbytes // BATCH_BYTES))
    for batch, draws in enumerate(np.array_split(np.arange(n_draws), n_batches)):
        simulated = simulate_records(
            samples.features,
            samples.groups,
            samples.given_labels if fit.settings.impact == "R" else samples.groups,
            grid.lengths,
            rates.of_draws(draws),
            fit.settings.impact,
            seed=int(np.random.default_rng([seed, 3, batch]).integers(2**31)),
            keep=chosen,
            n_classes=fit.n_classes,
            classifier=classifier,
            class_frequencies=fit.settings.class_frequencies,
            memory=fit.noise_memory,
            directions=fit.noise_directions,
            stretched=True,
            common_growth=coupling,
        )
        in_range = (np.abs(simulated) < largest).all(axis=(1, 2, 3))
        n_failed += int(np.count_nonzero(~in_range))
        if n_failed > LARGEST_FAILED_SHARE * n_draws:
            raise PredictionError(
                f"at least {n_failed} of {n_draws} forecast paths diverge between steps {grid.steps[0]} and "
                f"{grid.steps[-1]}: rates extrapolated that far mean nothing; forecast from a later step (--at), to a "
                "nearer --horizon, or with --impact R"
            )
        yield from simulated[in_range]


def _past_records(steps: Int[np.ndarray, " record"], start: int) -> Int[np.ndarray, " past"]:
    """Return records of the last half of the prefix, evenly spread in steps, the last being where paths start."""
    first = steps[0] + (1.0 - LATE_SHARE) * (steps[start] - steps[0])
    wanted = np.linspace(first, steps[start], PAST_RECORDS)
    return np.unique(np.searchsorted(steps[: start + 1], np.ceil(wanted)).clip(0, start))


def _rivals(
    past: dict[str, Float[np.ndarray, " past"]], elapsed: Float[np.ndarray, " past"], wanted: float
) -> dict[str, dict[str, float]]:
    """Return point forecasts of each metric: as it was, and continued linearly in log t, on the scale of its score."""
    found = {}
    for name, values in past.items():
        line = float(log_linear_extrapolation(elapsed, scored(name, values), np.array([wanted]))[0])
        line = float(np.exp(line)) if name in LOGARITHMIC else line
        found[name] = {
            "persistence": float(values[-1]),
            "log_linear": float(np.clip(line, 0.0, 1.0)) if name in SHARES else line,
        }
    return found


def _notes(fit: "Fit", samples: ForecastSamples, weight: PriorWeight, at: int) -> tuple[str, ...]:
    notes = []
    if not fit.diagnostics().converged:
        notes.append("the fit of the prefix did not converge; its numbers cannot be trusted")
    if weight.dominates:
        notes.append(
            "at the horizon the prior says as much of the rate that drives the classes apart as the record does: a "
            "wide forecast, and no more than a guess"
        )
    if samples.held is not None:
        notes.append(f"the classifier on layer '{samples.layer}' is held as it was at step {at}")
    if fit.settings.impact != "R":
        notes.append(
            f"nothing saturates under impact {fit.settings.impact}: growth that the record suggests goes on to the "
            "horizon; impact R forecasts better"
        )
    return tuple(notes)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        least = {"seed": 0, "n_times": 1}.get(name, 2)
        if value < least:
            raise InputError(f"{name} is {value}; give a whole number from {least} on")
