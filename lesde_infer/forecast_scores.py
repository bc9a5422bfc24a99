"""Scores of a forecast against what came to pass, for one number that was forecast by an ensemble of draws.

- CRPS, the continuous ranked probability score ∫ (F(x) − 1{x ≥ y})² dx = E|X − y| − ½ E|X − X'| (Gneiting and Raftery
  2007, doi:10.1198/016214506000001437), in the unit of the number; of a point forecast the absolute error. From n draws
  the *fair* estimate is taken (Ferro 2014, doi:10.1002/qj.2270), whose expectation does not depend on n.
- The log score, −log of the forecast's density at y. The density is that of a Student-t with n − 1 degrees of freedom
  around the mean of the draws, its predictive density under normality: unlike a kernel estimate it has tails. Nothing
  recorded after the prefix enters a forecast, so that this is a leave-future-out score, of the metrics at the horizon
  rather than of the increments on the way there (Bürkner, Gabry and Vehtari 2020, doi:10.1080/00949655.2020.1783262).
- The PIT value, the mid-rank of y among the draws: uniform where forecasts are right.

Small scores are good, all in the unit of what is scored. Metrics that are positive and range over orders of magnitude
are scored as logarithms (`scored`).

tests/lesde_infer/test_forecast_scores.py checks closed forms.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student_t

LOGARITHMIC = ("nc1", "between_norm", "within_between_ratio")
"""Metrics that are scored as logarithms."""

SHARES = ("linear_separability", "linear_accuracy", "ncm_accuracy", "network_accuracy", "nc4")
"""Metrics from 0 to 1."""

LATE_SHARE = 0.5
"""Share of the prefix, at its end, that a linear extrapolation is fitted to."""


def scored(metric: str, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return values on the scale on which a metric is scored; NaN where a logarithm is not defined."""
    if metric not in LOGARITHMIC:
        return values
    return np.log(np.where(values > 0, values, np.nan))


def crps(draws: Float[np.ndarray, " draw"], observed: float) -> float:
    """Return the fair CRPS of an ensemble of at least two draws; draws that are not defined are left out.

    E|X − X'| over pairs of different draws is Σ (2i − n − 1) x₍ᵢ₎ · 2/(n(n − 1)) with draws in order. NaN where fewer
    than two draws, or no observed value, are defined.
    """
    ordered = np.sort(draws[np.isfinite(draws)])
    n = len(ordered)
    if n < 2 or not np.isfinite(observed):
        return float("nan")
    spread = 2.0 * float((2.0 * np.arange(1, n + 1) - n - 1) @ ordered) / (n * (n - 1))
    return float(np.abs(ordered - observed).mean()) - 0.5 * spread


def log_score(draws: Float[np.ndarray, " draw"], observed: float) -> float:
    """Return −log of the Student-t density at the observed value; NaN where draws do not scatter."""
    defined = draws[np.isfinite(draws)]
    n = len(defined)
    if n < 3 or not np.isfinite(observed) or defined.std() == 0:
        return float("nan")
    scale = defined.std(ddof=1) * np.sqrt(1.0 + 1.0 / n)
    return -float(student_t.logpdf(observed, n - 1, loc=defined.mean(), scale=scale))


def pit(draws: Float[np.ndarray, " draw"], observed: float) -> float:
    """Return the mid-rank of the observed value among the draws and itself, (#below + ½ #equal + ½)/(n + 1)."""
    defined = draws[np.isfinite(draws)]
    if not len(defined) or not np.isfinite(observed):
        return float("nan")
    below, equal = np.count_nonzero(defined < observed), np.count_nonzero(defined == observed)
    return (below + 0.5 * equal + 0.5) / (len(defined) + 1)


def log_linear_extrapolation(
    elapsed: Float[np.ndarray, " record"], values: Float[np.ndarray, " record"], wanted: Float[np.ndarray, " wanted"]
) -> Float[np.ndarray, " wanted"]:
    """Continue a least-squares line in log t, fitted to the records of the last half of the prefix.

    Parameters
    ----------
    elapsed, values : array
        Time since the first record, increasing, and the metric there; records at which it is not defined are left out.
    wanted : array
        Times at which it is wanted.
    """
    use = np.isfinite(values) & (elapsed > 0) & (elapsed >= (1.0 - LATE_SHARE) * elapsed[-1])
    if np.count_nonzero(use) < 2:
        return np.full(len(wanted), np.nan)
    slope, level = np.polyfit(np.log(elapsed[use]), values[use], 1)
    return level + slope * np.log(wanted)


def score(metric: str, draws: Float[np.ndarray, " draw"], observed: float, rivals: dict[str, float]) -> dict[str, Any]:
    """Score a forecast, and point forecasts beside it.

    Parameters
    ----------
    metric : str
        Decides the scale.
    draws : array
        Forecast.
    observed : float
        What came to pass.
    rivals : dict of float
        Point forecasts by name, on the same scale as the metric itself.

    Returns
    -------
    dict
        ``scale`` (``log`` or ``linear``), ``crps``, ``log_score``, ``pit``, ``inside90`` (whether the observed value
        lies between the 5 % and the 95 % quantile), ``crps_NAME`` of each rival, and ``skill_NAME``,
        1 − crps/crps_NAME; NaN where not defined.
    """
    own, seen = scored(metric, draws), float(scored(metric, np.array(observed)))
    low, high = np.nanquantile(draws, [0.05, 0.95]) if np.isfinite(draws).any() else (np.nan, np.nan)
    found: dict[str, Any] = {
        "scale": "log" if metric in LOGARITHMIC else "linear",
        "crps": crps(own, seen),
        "log_score": log_score(own, seen),
        "pit": pit(own, seen),
        "inside90": bool(low <= observed <= high) if np.isfinite([low, high, observed]).all() else None,
    }
    for name, value in rivals.items():
        error = abs(float(scored(metric, np.array(value))) - seen)
        found[f"crps_{name}"] = error
        found[f"skill_{name}"] = 1.0 - found["crps"] / error if error > 0 else float("nan")
    return found
