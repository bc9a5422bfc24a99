"""Does a fit reproduce its run? Simulate the run again from its first record and compare with what was recorded.

For each posterior draw the samples' features are simulated over the whole run in open loop
(`lesde_infer.dynamics`): nothing recorded after the first record enters, but for the weights of the classifier
where the impact is R on a hidden layer. Metrics of separability and collapse (`lesde_infer.observed`) are then
taken alike of the simulated and of the recorded features, at the same records and on the same samples: a
posterior predictive check (Gelman, Meng and Stern 1996, Statistica Sinica 6, 733–807).

Where samples are missing, the samples are some of those that the first record fitted holds, and at each record
simulated and recorded features of those that it holds are compared; records that lack too many are passed over. Paths
go on through intervals that could not be fitted (`lesde_infer.replication_path`).

A check of this kind sees the run twice, in the fit and in the comparison. It finds what the model cannot express, such
as deviations that spread along some directions more than along others where they were fitted as alike in all of them
(NC1 then comes out too small), and says nothing about how well the model forecasts.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.dynamics import simulate_records
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.replicated_samples import ReplicatedSamples, choose_samples
from lesde_infer.separability import pairwise_separable

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
"""Quantiles of the draws that are reported, by their names in JSON."""

SLOW_METRICS = ("linear_separability", "linear_accuracy")
"""Metrics that cost 1–50 ms each, where the others cost less than 1 ms."""

SLOW_METRIC_DRAWS = 25
"""Before the last step, slow metrics are taken of every m-th path only, with m such that about this many remain."""

LARGEST_FEATURE = 1e100
"""A simulated path that goes beyond this has failed: squares of larger features would overflow."""

LARGEST_FAILED_SHARE = 0.1
"""If more draws than this share fail, what the others predict is not what the posterior predicts."""

BATCH_BYTES = 256 * 2**20
"""Simulated records that are held at the same time, or those of one draw, if larger."""

RecordingSource: TypeAlias = str | os.PathLike[str] | Recording


class PredictionError(RuntimeError):
    """The posterior predicts nothing that could be compared; the message says why, and what to do."""


@dataclass(frozen=True)
class Check:
    """Observed against predicted metrics at S recorded steps, the first record excluded, since it is given.

    Attributes
    ----------
    steps : int array (step,)
        Recorded optimizer steps at which the two are compared; the last is the last that was fitted.
    predicted : dict of float array (draw, step)
        Each metric of each simulated path, paths that failed left out. NaN where the features do not define the
        metric, and where one of `SLOW_METRICS` was not taken (see `check`).
    observed : dict of float array (step,)
        The same metrics of the recorded features of the same samples.
    p_values : dict of float array (step,)
        See `two_sided_p_values`.
    class_means_observed : float array (step, class, feature)
    class_means_predicted : float array (draw, step, class, feature)
    probability_separable : float
        Share of the paths in which a hyperplane separates each pair of classes at the last step.
    probability_separable_error : float
        Its Monte-Carlo standard error, see `separable_share`.
    separable_observed : bool
        Whether each pair of classes is separable at the last recorded step.
    at_step, horizon_step : int
        Step of the first record, from which the paths start, and the last step compared.
    n_failed_draws : int
        Paths that left the range of numbers and were left out.
    """

    steps: Int[np.ndarray, " step"]
    predicted: dict[str, Float[np.ndarray, "draw step"]]
    observed: dict[str, Float[np.ndarray, " step"]]
    p_values: dict[str, Float[np.ndarray, " step"]]
    class_means_observed: Float[np.ndarray, "step class_ feature"]
    class_means_predicted: Float[np.ndarray, "draw step class_ feature"]
    probability_separable: float
    probability_separable_error: float
    separable_observed: bool
    at_step: int
    horizon_step: int
    n_failed_draws: int

    def to_json(self) -> dict[str, Any]:
        """Return what `lesde check --json` writes: all steps in `series`, the last beside it; None is not defined."""
        series = {
            name: {
                **draw_quantiles(draws),
                "observed": json_numbers(self.observed[name]),
                "p_value": json_numbers(self.p_values[name]),
            }
            for name, draws in self.predicted.items()
        }
        return {
            "at_step": self.at_step,
            "horizon_step": self.horizon_step,
            "predicted": {name: {key: values[key][-1] for key in QUANTILES} for name, values in series.items()},
            "observed": {name: values["observed"][-1] for name, values in series.items()},
            "p_values": {name: values["p_value"][-1] for name, values in series.items()},
            "probability_separable": self.probability_separable,
            "probability_separable_error": self.probability_separable_error,
            "separable_observed": self.separable_observed,
            "n_draws": int(self.class_means_predicted.shape[0]),
            "n_failed_draws": self.n_failed_draws,
            "steps": self.steps.tolist(),
            "series": series,
        }


def check(
    fit: "Fit",
    recording: RecordingSource,
    *,
    n_draws: int = 100,
    n_times: int = 9,
    seed: int = 0,
    max_samples_per_class: int = 200,
) -> Check:
    """Replicate the fitted run from its first record under posterior draws, and compare with the recorded run.

    Parameters
    ----------
    fit : Fit
    recording : path or Recording
        The recording that was fitted. It may have grown since: records after the last fitted one are not looked at.
    n_draws : int
        Posterior draws, each of which gives one simulated path.
    n_times : int
        Number of records to compare at, spread evenly over those fitted, the last included; all, if there are fewer.
    seed : int
        Fixes the draws, the paths and the choice of samples: the same arguments give the same result.
    max_samples_per_class : int
        Classes with more samples are thinned to a random choice of this many. Observed and predicted metrics and class
        means alike are those of the chosen samples.

    Raises
    ------
    InputError
        If the recording is not the one that was fitted, or an argument is out of range.
    PredictionError
        If more than `LARGEST_FAILED_SHARE` of the paths leave the range of numbers.

    Notes
    -----
    Most of the time goes into `SLOW_METRICS`. Before the last step they are therefore taken of every m-th path only,
    m = max(1, ⌊n_draws / `SLOW_METRIC_DRAWS`⌋). `network_accuracy` and `nc4` are compared on the logits
    and, with `nc3`, on a hidden layer under impact R, where the recorded classifier acts on the simulated features.
    """
    _check_arguments(n_draws=n_draws, n_times=n_times, seed=seed, max_samples_per_class=max_samples_per_class)
    stops = fit.interval_starts + 1
    chosen = np.rint(np.linspace(0, len(stops), min(n_times, len(stops)) + 1)[1:]).astype(np.int64) - 1
    with _opened(recording) as opened:
        start = choose_samples(fit, opened, max_samples_per_class, seed)
        records, recorded, present = start.comparable(opened, stops[chosen])
    rates = fit.interval_rates(n_draws, seed)
    stride = max(1, rates.n_draws // SLOW_METRIC_DRAWS)
    quick = tuple(name for name in start.metrics if name not in SLOW_METRICS)
    measured, means = [], []
    for draw, path in enumerate(_paths(fit, start, rates, records, seed)):
        means.append([start.class_means(*pair) for pair in zip(path, present, strict=True)])
        for features, record, samples in zip(path, records.tolist(), present, strict=True):
            metrics = start.metrics if record == records[-1] or draw % stride == 0 else quick
            measured.append(start.measure(features, record, samples, metrics))
    predicted, observed = {}, {}
    at_records = [
        start.measure(*triple, start.metrics) for triple in zip(recorded, records.tolist(), present, strict=True)
    ]
    for name in start.metrics:
        predicted[name] = np.array([values.get(name, np.nan) for values in measured]).reshape(-1, len(records))
        observed[name] = np.array([values[name] for values in at_records])
    # A share of exactly 1 is all pairs.
    probability, error = separable_share(predicted["linear_separability"][:, -1] == 1.0)
    return Check(
        steps=fit.steps[records],
        predicted=predicted,
        observed=observed,
        p_values={name: two_sided_p_values(predicted[name], observed[name]) for name in start.metrics},
        class_means_observed=np.stack([start.class_means(*pair) for pair in zip(recorded, present, strict=True)]),
        class_means_predicted=np.array(means),
        probability_separable=probability,
        probability_separable_error=error,
        separable_observed=bool(observed["linear_separability"][-1] == 1.0),
        at_step=int(fit.steps[start.path.first_record]),
        horizon_step=int(fit.steps[records[-1]]),
        n_failed_draws=rates.n_draws - len(means),
    )


def probability_separable(
    fit: "Fit",
    recording: RecordingSource,
    *,
    n_draws: int = 100,
    seed: int = 0,
    max_samples_per_class: int = 200,
) -> tuple[float, float]:
    """Return the posterior probability that all pairs of classes are separable at the end, and its Monte-Carlo error.

    Parameters and errors are those of `check`; only the last record is simulated, and no other metric taken.
    """
    _check_arguments(n_draws=n_draws, seed=seed, max_samples_per_class=max_samples_per_class)
    with _opened(recording) as opened:
        start = choose_samples(fit, opened, max_samples_per_class, seed)
    paths = _paths(fit, start, fit.interval_rates(n_draws, seed), fit.interval_starts[-1:] + 1, seed)
    return separable_share(np.array([pairwise_separable(path[0], start.labels).all_pairs for path in paths]))


def two_sided_p_values(
    predicted: Float[np.ndarray, "draw step"], observed: Float[np.ndarray, " step"]
) -> Float[np.ndarray, " step"]:
    """Return the two-sided posterior predictive p-value of each observed value.

    With n defined draws y*, the observed y takes the mid-rank among all n + 1 of them,

        u = (#{y* < y} + ½ #{y* = y} + ½) / (n + 1),        p = 2 min(u, 1 − u).

    Ties, frequent for accuracies and shares, count half. The p-value is never below 1/(n + 1), all that n draws can
    say; it is 1 where all draws equal the observed value. If y is one more draw from the same distribution, u is
    uniform up to these steps. NaN where the observed value is not defined, or no draw is.
    """
    n_defined = np.isfinite(predicted).sum(axis=0)
    below, equal = (predicted < observed).sum(axis=0), (predicted == observed).sum(axis=0)
    lower = (below + 0.5 * equal + 0.5) / (n_defined + 1)
    return np.where(np.isfinite(observed) & (n_defined > 0), 2 * np.minimum(lower, 1 - lower), np.nan)


def separable_share(separable: Bool[np.ndarray, " draw"]) -> tuple[float, float]:
    """Return the share of true values among n draws, and the standard error of that share.

    The error is √(q(1 − q)/n) at q = (k + ½)/(n + 1) for k true values, the posterior mean under Jeffreys' prior:
    unlike at q = k/n it is not zero where all draws agree, since n draws cannot make certain.
    """
    regularised = (np.count_nonzero(separable) + 0.5) / (separable.size + 1)
    return float(separable.mean()), float(np.sqrt(regularised * (1 - regularised) / separable.size))


def _paths(
    fit: "Fit", start: ReplicatedSamples, rates: IntervalRates, records: Int[np.ndarray, " kept"], seed: int
) -> Iterator[Float[np.ndarray, "kept sample feature"]]:
    """Simulate a path for each draw of the rates, and yield those that stay in range, at the records asked for."""
    n_draws, n_failed = rates.n_draws, 0
    rates, coupling = start.path.across_gaps(rates), start.path.coupling(fit)
    n_batches = -(-n_draws * len(records) * start.features.nbytes // BATCH_BYTES)
    for batch, draws in enumerate(np.array_split(np.arange(n_draws), min(n_batches, n_draws))):
        simulated = simulate_records(
            start.features,
            start.groups,
            start.given_labels if fit.settings.impact == "R" else start.groups,
            start.path.lengths,
            rates.of_draws(draws),
            fit.settings.impact,
            # Not the seed itself: where it made the recording, a path would repeat the recorded noise.
            seed=int(np.random.default_rng([seed, 1, batch]).integers(2**31)),
            keep=np.array([start.path.place(record) for record in records.tolist()]),
            n_classes=fit.n_classes,
            classifier=start.classifier,
            class_frequencies=fit.settings.class_frequencies,
            memory=fit.noise_memory,
            directions=fit.noise_directions,
            sample_noise=start.noise,
            common_growth=coupling,
        )
        in_range = (np.abs(simulated) < LARGEST_FEATURE).all(axis=(1, 2, 3))
        n_failed += int(np.count_nonzero(~in_range))
        if n_failed > LARGEST_FAILED_SHARE * n_draws:
            raise PredictionError(
                f"at least {n_failed} of {n_draws} simulated paths leave the range of numbers by step {fit.steps[-1]}: "
                "the fitted rates do not describe this run; fit impact R, or another curve"
            )
        yield from simulated[in_range]


def _opened(recording: RecordingSource) -> AbstractContextManager[Recording]:
    """Open a path for the duration of a with statement; leave an open recording open."""
    return nullcontext(recording) if isinstance(recording, Recording) else Recording(recording)


def _check_arguments(**arguments: int) -> None:
    """Refuse numbers that are too small."""
    for name, value in arguments.items():
        least = {"seed": 0, "max_samples_per_class": 2}.get(name, 1)
        if value < least:
            raise InputError(f"{name} is {value}; give a whole number from {least} on")


def draw_quantiles(draws: Float[np.ndarray, "draw step"]) -> dict[str, list[float | None]]:
    """Quantiles of the defined draws at each step."""
    defined = np.isfinite(draws).any(axis=0)
    values = np.full((len(QUANTILES), draws.shape[1]), np.nan)
    if defined.any():
        values[:, defined] = np.nanquantile(draws[:, defined], list(QUANTILES.values()), axis=0)
    return {name: json_numbers(row) for name, row in zip(QUANTILES, values, strict=True)}


def json_numbers(values: Float[np.ndarray, " step"]) -> list[float | None]:
    """Numbers as JSON knows them: what is not defined is None."""
    return [float(value) if np.isfinite(value) else None for value in values]
