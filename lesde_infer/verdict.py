"""The verdict: is the network locally elastic at the end, and do its classes separate, with what certainty.

Phases follow the separation theorem (Zhang, Wang, Su 2021, Theorem 1), which for noise that does not vanish says that
classes separate if γ(t) ≫ 1/t and do not if γ(t) ≪ 1/t: ``separating`` is γ > 0 at the end with a tail index
below 1, ``too_weak`` γ > 0 with a tail index of 1 or more, ``not_elastic`` γ ≤ 0. They speak of the limit; beside
them stands the probability that the classes are separable at the last record, by simulation of the fitted SDE.

γ at the end is that of the network, not of the samples that happened to be probed: the posterior, which is about these,
is widened by the error of sampling them (`lesde_infer.probe_sampling`).
"""

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from lesde_infer.flags import Flag
from lesde_infer.probe_sampling import end_intervals

SURE, LIKELY = 0.95, 0.8


@dataclass(frozen=True)
class Interval:
    """Posterior mean and central 90 % interval.

    Attributes
    ----------
    mean, q05, q95 : float
        Mean, 5 % and 95 % quantile.
    """

    mean: float
    q05: float
    q95: float

    @classmethod
    def of(cls, draws: Float[np.ndarray, "..."]) -> "Interval":
        """Summarise draws."""
        low, high = np.quantile(draws, [0.05, 0.95])
        return cls(float(np.mean(draws)), float(low), float(high))


@dataclass(frozen=True)
class Verdict:
    """What the posterior says of a run.

    Attributes
    ----------
    probability_gamma_positive : float
        Posterior probability that γ, averaged over the last tenth of the record, is positive.
    gamma_end : Interval
        That average, per unit time, with the error of sampling the probe.
    tail_index : Interval
        Local tail index of γ (`lesde_infer.posterior`).
    paper_tail_index : Interval
        The paper's tail index of α.
    probability_separable : float
        Probability that all pairs of classes are linearly separable at the last record.
    phase_probabilities : dict of str to float
        Posterior probability of each phase.
    sentence : str
        The verdict in words.
    """

    probability_gamma_positive: float
    gamma_end: Interval
    tail_index: Interval
    paper_tail_index: Interval
    probability_separable: float
    phase_probabilities: dict[str, float]
    sentence: str


def gamma_at_end(gamma: xr.DataArray, sampling_error: float) -> Float[np.ndarray, " draw"]:
    """Return draws of γ averaged over the last tenth of the record, with the error of sampling the probe."""
    late = np.flatnonzero(end_intervals(gamma["time"].to_numpy()))
    draws = gamma.isel(time=late).mean("time").to_numpy().ravel()
    return draws + sampling_error * np.random.default_rng(len(draws)).normal(size=draws.shape)


def judge(
    posterior: xr.Dataset,
    flags: list[Flag],
    last_step: int,
    probability_separable: float,
    sampling_error: float = 0.0,
) -> Verdict:
    """Return the verdict of a posterior; ``sampling_error`` is that of γ over draws of the probe, per unit time."""
    gamma_end = gamma_at_end(posterior["gamma"], sampling_error)
    tail = posterior["tail_index"].to_numpy().ravel()
    positive = gamma_end > 0
    probability = float(positive.mean())
    identified = not any(flag.name == "gamma_not_identified" and flag.stop_step >= last_step for flag in flags)
    return Verdict(
        probability_gamma_positive=probability,
        gamma_end=Interval.of(gamma_end),
        tail_index=Interval.of(tail),
        paper_tail_index=Interval.of(posterior["paper_tail_index"].to_numpy()),
        probability_separable=probability_separable,
        phase_probabilities={
            "separating": float((positive & (tail < 1.0)).mean()),
            "too_weak": float((positive & (tail >= 1.0)).mean()),
            "not_elastic": 1.0 - probability,
        },
        sentence=_sentence(probability, probability_separable, identified=identified),
    )


def say_probability(probability: float, decimals: int = 2) -> str:
    """Write a probability without claiming certainty from a finite number of draws."""
    if math.isnan(probability):
        return "not defined"
    least = 10.0**-decimals
    if probability > 1.0 - least:
        return f"> {1.0 - least:.{decimals}f}"
    return f"< {least:.{decimals}f}" if probability < least else f"{probability:.{decimals}f}"


def _sentence(probability_positive: float, probability_separable: float, *, identified: bool) -> str:
    positive = say_probability(probability_positive)
    if not identified:
        elastic = "Whether the network is locally elastic at the end cannot be told: the data do not identify γ there"
    elif probability_positive >= SURE:
        elastic = f"The network is locally elastic at the end (probability {positive})"
    elif probability_positive <= 1.0 - SURE:
        elastic = f"The network is anti-elastic at the end: γ > 0 has a probability of {positive}"
    else:
        elastic = f"Local elasticity at the end is not resolved from zero (probability of γ > 0: {positive})"
    separable = say_probability(probability_separable)
    if math.isnan(probability_separable):
        separates = "whether its classes separate was not simulated"
    elif probability_separable >= LIKELY:
        separates = f"its classes separate within the record (probability {separable})"
    elif probability_separable <= 1.0 - LIKELY:
        separates = f"its classes do not all separate within the record (probability of separation {separable})"
    else:
        separates = f"whether its classes separate within the record is open (probability {separable})"
    return f"{elastic}; {separates}."
