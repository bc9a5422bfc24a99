"""What is compared between runs: a few numbers that say how a run went, each with its uncertainty.

From the posterior of a run, as draws:

- ``gamma_end``: γ over the last tenth of the record, with the error of sampling the probe;
- ``gamma_at_half``: γ over the tenth around the middle of the record, a matched fraction of training;
- ``gamma_at_loss``: γ over the tenth of the record around the record at which the loss of the probe, smoothed, first
  falls to a level that is the same for all runs (`lesde_infer.equal_loss`);
- ``gamma_integral``: ∫γ dt over the record, how often contrasts could have grown by e;
- ``tail_index``: that of γ.

From the recording itself, as numbers without uncertainty of their own (what remains is chance from run to run):

- ``separation_step``: the first recorded step from which on all pairs of classes are linearly separable at every record
  looked at; not defined where that never comes;
- ``nc1``, ``within_between_ratio``: at the last record.

*The prior is taken out.* Averages of γ over a window have a prior of their own, N(0, w²) on the scale u = asinh(γ/ref)
that curves live on. A model of several runs that took each run's posterior for what its data say would count that
prior once a run. So draws are weighted by exp(u²/2w²), after which they stand for the likelihood; where the prior has a
half of the precision or more the weights would be those of a few draws, and the run does not tell the quantity: it
is left out. tests/lesde_infer/test_run_summary.py checks the weights against a conjugate posterior.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from data_tools.recording import Recording
from lesde_infer.collapse import nc1, within_between_ratio
from lesde_infer.extrapolation import PRIOR_DOMINATES
from lesde_infer.probe_sampling import end_intervals
from lesde_infer.sampling import evenly_spread
from lesde_infer.separability import pairwise_separable
from lesde_infer.snapshots import present_samples, read_record
from lesde_infer.verdict import gamma_at_end

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

WINDOW = 0.1  # of the record, over which γ is averaged
MINIMAL_SAMPLES = 2
SEPARATION_RECORDS = 40  # at which separability is looked at, before the step is found by halving
GAMMAS = ("gamma_end", "gamma_at_half", "gamma_at_loss", "gamma_integral")
"""Quantities that may be of either sign and range over orders of magnitude."""
OBSERVED = ("separation_step", "nc1", "within_between_ratio")
"""Quantities that are observed, all positive."""
QUANTITIES = (*GAMMAS, "tail_index", *OBSERVED)
NOT_AT_LOSS = "its architecture is not compared at equal loss"


@dataclass(frozen=True)
class WeightedDraws:
    """Draws that stand for what a run's data say of a quantity.

    Attributes
    ----------
    values, weights : array, shape (draw,)
        Weights add up to one.
    """

    values: Float[np.ndarray, " draw"]
    weights: Float[np.ndarray, " draw"]


@dataclass(frozen=True)
class RunSummary:
    """What is compared of a run.

    Attributes
    ----------
    name : str
        What the run is called, its file.
    inferred : dict of WeightedDraws
        Quantities with a posterior; those that the run does not tell are missing.
    observed : dict of float
        Quantities that are observed; those not defined are missing.
    untold : dict of str
        Why a quantity is missing.
    """

    name: str
    inferred: dict[str, WeightedDraws]
    observed: dict[str, float]
    untold: dict[str, str]


def summarise_run(name: str, fit: "Fit", recording: Recording | None, time_of_loss: float | None) -> RunSummary:
    """Summarise a run.

    Parameters
    ----------
    name : str
        What to call it.
    fit : Fit
        Its posterior.
    recording : Recording, optional
        For what is observed.
    time_of_loss : float, optional
        When the run's loss is that at which γ is compared; None where it is not compared at equal loss.
    """
    gamma = fit.posterior.to_dataset()["gamma"]
    times, start, end = fit.posterior["time"].to_numpy(), fit.times[0], fit.times[-1]
    untold: dict[str, str] = {}
    windows = {"gamma_end": end_intervals(times), "gamma_at_half": _around(times, 0.5 * (start + end), end - start)}
    if time_of_loss is None:
        untold["gamma_at_loss"] = NOT_AT_LOSS
    else:
        windows["gamma_at_loss"] = _around(times, time_of_loss, end - start)
    lengths = np.diff(fit.times)[fit.interval_starts]
    integral = (gamma.transpose("chain", "draw", "time").to_numpy() * lengths).sum(axis=-1).ravel()
    tail = fit.posterior["tail_index"].to_numpy().ravel()
    inferred = {"gamma_integral": _unweighted(integral)}
    if fit.settings.curve == "constant":
        untold["tail_index"] = "the curve is constant"
    else:
        inferred["tail_index"] = _unweighted(tail)
    widths = fit.data["prior_widths"].to_dataset()
    for quantity, window in windows.items():
        if not window.any():
            untold[quantity] = "no interval was fitted there"
            continue
        draws = gamma.isel(time=np.flatnonzero(window)).mean("time").to_numpy().ravel()
        width = float(widths["gamma"].to_numpy()[window].mean())
        weights = likelihood_weights(np.arcsinh(draws / float(widths.attrs["gamma_reference"])), width)
        if weights is None:
            untold[quantity] = "the record says no more of it than the prior does"
            continue
        if quantity == "gamma_end":
            error = float(fit.data["constant_data"].attrs.get("gamma_sampling_error", 0.0))
            draws = gamma_at_end(gamma, error)
        inferred[quantity] = WeightedDraws(draws, weights)
    observed = {} if recording is None else _observed(fit, recording, untold)
    return RunSummary(name, inferred, observed, untold)


def likelihood_weights(u: Float[np.ndarray, " draw"], prior_sd: float) -> Float[np.ndarray, " draw"] | None:
    """Return weights exp(u²/2w²) that take a prior N(0, w²) out of draws; None where the prior dominates."""
    if float(u.std()) >= PRIOR_DOMINATES * prior_sd:
        return None
    log_weights = 0.5 * (u / prior_sd) ** 2
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def _unweighted(values: Float[np.ndarray, " draw"]) -> WeightedDraws:
    return WeightedDraws(values, np.full(len(values), 1.0 / len(values)))


def _around(times: Float[np.ndarray, " time"], centre: float, length: float) -> np.ndarray:
    """Tell which intervals lie within the window around a time; the nearest at least."""
    distance = np.abs(times - centre)
    return distance <= max(0.5 * WINDOW * length, float(distance.min()))


def _observed(fit: "Fit", recording: Recording, untold: dict[str, str]) -> dict[str, float]:
    labels = recording.labels if fit.settings.group == "labels" else recording.given_labels
    return observed_quantities(recording, fit.settings.layer, labels, int(fit.steps[-1]), untold)


def observed_quantities(
    recording: Recording, layer: str, labels: Int[np.ndarray, " sample"], until: int, untold: dict[str, str]
) -> dict[str, float]:
    """Return the step of separation and collapse at a step; why something is not defined is added to ``untold``."""
    reader = _Reader(recording, layer, labels)
    records = np.flatnonzero(recording.steps <= until)
    found = {}
    last = reader.at(int(records[-1]))
    for name, measure in (("nc1", nc1), ("within_between_ratio", within_between_ratio)):
        value = np.nan if last is None else float(measure(*last))
        if np.isfinite(value) and value > 0:
            found[name] = value
        else:
            untold[name] = "not defined at the last record"
    record = separation_record(reader.is_separable, records.tolist())
    if record is None:
        untold["separation_step"] = "classes are not separable at the last record"
    else:
        found["separation_step"] = float(max(int(recording.steps[record]), 1))  # so that it has a logarithm
    return found


@dataclass(frozen=True)
class _Reader:
    """Reads records of a layer, without samples that are missing."""

    recording: Recording
    layer: str
    labels: Int[np.ndarray, " sample"]

    def at(self, record: int) -> tuple[Float[np.ndarray, "sample feature"], Int[np.ndarray, " sample"]] | None:
        """Return features and labels of a record; None where a class has fewer than two samples there."""
        features = read_record(self.recording, self.layer, record)
        present = present_samples(features)
        classes, counts = np.unique(self.labels[present], return_counts=True)
        if len(classes) < len(np.unique(self.labels)) or counts.min() < MINIMAL_SAMPLES:
            return None
        return features[present], self.labels[present]

    def is_separable(self, record: int) -> bool:
        """Tell whether all pairs of classes are linearly separable at a record."""
        found = self.at(record)
        return found is not None and pairwise_separable(*found).share == 1.0


def separation_record(is_separable: Callable[[int], bool], records: list[int]) -> int | None:
    """Return the record from which on classes stay separable; None where they are not at the last one.

    Records are looked at backwards on a coarse grid up to the last at which they are not, then halved in between.
    """
    coarse = [records[i] for i in evenly_spread(len(records), min(len(records), SEPARATION_RECORDS))]
    if records[0] not in coarse:
        coarse.insert(0, records[0])
    if not is_separable(coarse[-1]):
        return None
    high, low = coarse[-1], records[0] - 1
    for record in reversed(coarse[:-1]):
        if not is_separable(record):
            low = record
            break
        high = record
    if high == records[0]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_separable(middle) else (middle, high)
    return high
