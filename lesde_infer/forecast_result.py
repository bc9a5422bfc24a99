"""What a forecast says, and how it is written for machines."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from lesde_infer.extrapolation import PriorWeight
from lesde_infer.plain_values import plain
from lesde_infer.predictive import QUANTILES, draw_quantiles, json_numbers

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit


@dataclass(frozen=True)
class Forecast:
    """Metrics forecast at S steps after the prefix, and what was recorded of them.

    Attributes
    ----------
    fit : Fit
        Of the prefix.
    steps : int array (step,)
        Steps at which metrics were taken of each path, the last being the horizon.
    predicted : dict of float array (draw, step)
        Metrics of the paths that stayed in range. NaN where the features do not define a metric; `linear_accuracy` is
        taken of every m-th path only before the horizon.
    observed : dict of float array (step,)
        The same of the recorded features of the same samples; NaN where the recording does not reach.
    past_steps : int array (past,)
        Steps of records in the last half of the prefix, the last being where paths start.
    past : dict of float array (past,)
        Metrics recorded there.
    at_step, horizon_step : int
        Step at which paths start, and the last.
    probability_separable, probability_separable_error : float
        Share of the paths in which a hyperplane separates each pair of classes at the horizon, and its Monte-Carlo
        standard error (`lesde_infer.predictive.separable_share`).
    scores : dict
        By metric, of the horizon; see `lesde_infer.forecast_scores.score`. Empty if the recording does not reach it.
    prior_weight : PriorWeight
        How far the forecast leans on the prior.
    left_out : dict of str
        Metrics that are not forecast, and why.
    n_failed_draws : int
        Paths that left the range of numbers, or diverged, and were left out.
    notes : tuple of str
        What to doubt.
    """

    fit: "Fit" = field(repr=False)
    steps: Int[np.ndarray, " step"]
    predicted: dict[str, Float[np.ndarray, "draw step"]]
    observed: dict[str, Float[np.ndarray, " step"]]
    past_steps: Int[np.ndarray, " past"]
    past: dict[str, Float[np.ndarray, " past"]]
    at_step: int
    horizon_step: int
    probability_separable: float
    probability_separable_error: float
    scores: dict[str, dict[str, Any]]
    prior_weight: PriorWeight
    left_out: dict[str, str]
    n_failed_draws: int
    notes: tuple[str, ...]

    @property
    def n_draws(self) -> int:
        """Paths that stayed in range."""
        return len(self.predicted["nc1"])

    @property
    def separation_steps(self) -> Float[np.ndarray, " draw"]:
        """First of `steps` at which all pairs of classes are separable, in each path; infinite if at none of them."""
        separable = self.predicted["linear_separability"] == 1.0
        first = self.steps[separable.argmax(axis=1)].astype(np.float64)
        return np.where(separable.any(axis=1), first, np.inf)

    def to_json(self) -> dict[str, Any]:
        """Return what `lesde forecast --json` writes: all steps in `series`, the horizon beside it; None: not defined.

        ``separation`` has quantiles of the first step at which all pairs of classes are separable, of those in
        ``steps``; None: not by the horizon.
        """
        series = {
            name: {**draw_quantiles(draws), "observed": json_numbers(self.observed[name])}
            for name, draws in self.predicted.items()
        }
        separation = self.separation_steps
        levels = np.quantile(separation, list(QUANTILES.values()), method="inverted_cdf")
        settings, separable = self.fit.settings, self.observed["linear_separability"][-1]
        return {
            "at_step": self.at_step,
            "horizon_step": self.horizon_step,
            "predicted": {name: {key: values[key][-1] for key in QUANTILES} for name, values in series.items()},
            "observed": {name: values["observed"][-1] for name, values in series.items()},
            "start": {name: json_numbers(values)[-1] for name, values in self.past.items()},
            "probability_separable": self.probability_separable,
            "probability_separable_error": self.probability_separable_error,
            "separable_observed": None if np.isnan(separable) else bool(separable == 1.0),
            "separation": {
                "first_step": dict(zip(QUANTILES, json_numbers(levels), strict=True)),
                "share_never": float(np.isinf(separation).mean()),
                "separable_at_start": bool(self.past["linear_separability"][-1] == 1.0),
            },
            "scores": {name: plain(own) for name, own in self.scores.items()},
            "prior_weight": self.prior_weight.to_json(),
            "metrics_left_out": self.left_out,
            "notes": list(self.notes),
            **{name: getattr(settings, name) for name in ("layer", "impact", "elasticity", "curve", "group", "seed")},
            "converged": self.fit.diagnostics().converged,
            "n_draws": self.n_draws,
            "n_failed_draws": self.n_failed_draws,
            "steps": self.steps.tolist(),
            "series": series,
            "past": {
                "steps": self.past_steps.tolist(),
                **{name: json_numbers(values) for name, values in self.past.items()},
            },
        }
