"""How much of a posterior is the prior's doing: sensitivity to power-scaling.

The prior, or the likelihood, is raised to a power a close to one, by Pareto-smoothed importance weights p^(a−1) on the
draws, without fitting again (Kallioinen, Paananen, Bürkner and Vehtari 2024, Statistics and Computing 34, 57,
doi:10.1007/s11222-023-10366-5; computed by ArviZ). The sensitivity of a quantity is the cumulative Jensen–Shannon
distance that its posterior moves, per doubling of a. Above 0.05

- of the prior and of the likelihood, prior and data pull the quantity in different directions: a conflict;
- of the prior alone, the data say little about it, and what is reported is largely the prior.

Scaled are, together, all priors of the submodels that a quantity depends on, and no others: those of the contrasts
for γ and its tail index, those of contrasts and mean over classes for α and β, those of growth for κ. Which
priors that are is said in `lesde_infer.log_prior`: the GP's weights given its amplitude and length are not among them.
Rates are looked at as asinh(rate/reference), on which their priors are about normal.

Draws are finite: with an effective sample size of 400 a quantity that depends on nothing comes out at 0.04 ± 0.01, with
3,000 at 0.014 ± 0.004.
"""

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from jaxtyping import Float

from data_tools.errors import InputError
from lesde_infer.posterior import JOINT

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

THRESHOLD = 0.05
POWERS = (0.99, 1.01)
CONFLICT, WEAK, FINE = "potential prior-data conflict", "potential strong prior / weak likelihood", "✓"  # ArviZ's words
TIMES = {"early": 0.1, "middle": 0.5, "late": 0.9}  # shares of the intervals at which curves are looked at

CURVES: dict[str, frozenset[str]] = {
    "gamma": frozenset({"contrast"}),
    "gamma_kernel": frozenset({"contrast"}),
    "alpha": frozenset({"contrast", "shared"}),
    "beta": frozenset({"contrast", "shared"}),
    "kappa": frozenset({"growth", "growth_along"}),
    "kappa_across": frozenset({"growth_across"}),
    "pull": frozenset({"pull"}),
}
"""Curves, and the strata that each depends on, as far as a fit has them."""
OF_DEVIATIONS = ("kappa", "kappa_across", "pull")
NUMBERS: dict[str, frozenset[str]] = {
    "tail_index": frozenset({"contrast"}),
    "paper_tail_index": frozenset({"contrast", "shared"}),
}
REFERENCE = "gamma_reference"  # attribute of the group `prior_widths`

Draws = Float[np.ndarray, "chain draw"]


def prior_sensitivity(fit: "Fit") -> xr.Dataset:
    """Return how the posterior of each quantity answers to power-scaling of its priors, and of its likelihood.

    Parameters
    ----------
    fit : Fit
        What `lesde_infer.fit` returned.

    Returns
    -------
    Dataset, over ``quantity``
        ``prior`` and ``likelihood``, sensitivities; ``diagnosis``, in ArviZ's words: a potential prior-data conflict, a
        potential strong prior / weak likelihood, or ✓.

    Raises
    ------
    InputError
        If the fit does not hold the log prior of its draws.
    """
    if "log_prior" not in fit.data.children:
        raise InputError("this fit holds no log prior of its draws, since an earlier version made it; fit again")
    priors = fit.data["log_prior"].to_dataset()
    likelihoods = fit.data["log_likelihood"].to_dataset().sum("time")
    weights: dict[frozenset[str], tuple[tuple[Draws, Draws], tuple[Draws, Draws]]] = {}
    rows = []
    for name, strata, values in _quantities(fit):
        if strata not in weights:
            submodels = [str(name) for name in priors if strata & set(str(name).split(JOINT))]
            members = [stratum for submodel in submodels for stratum in submodel.split(JOINT)]
            weights[strata] = (_weights(_total(priors, submodels)), _weights(_total(likelihoods, members)))
        prior, likelihood = (sensitivity(values, own) for own in weights[strata])
        rows.append((name, prior, likelihood, diagnosis(prior, likelihood)))
    names, prior_column, likelihood_column, diagnoses = zip(*rows, strict=True)
    return xr.Dataset(
        {
            "prior": ("quantity", list(prior_column)),
            "likelihood": ("quantity", list(likelihood_column)),
            "diagnosis": ("quantity", list(diagnoses)),
        },
        {"quantity": list(names)},
    )


def sensitivity(values: Draws, weights: tuple[Draws, Draws]) -> float:
    """Return how far the posterior of a quantity moves, per doubling of the power; weights are of `POWERS`."""
    lower, upper = weights
    return float(
        array_stats.power_scale_sense(values, lower, upper, *POWERS, chain_axis=0, draw_axis=1)
        if np.isfinite(values).all() and np.ptp(values) > 0.0
        else np.nan
    )


def power_weights(log_density: Draws) -> tuple[Draws, Draws]:
    """Return the normalised weights of draws when the density of a component is raised to each of `POWERS`."""
    scaled = [np.exp(array_stats.power_scale_lw(log_density, alpha=power, axis=(0, 1))) for power in POWERS]
    lower, upper = (weights / weights.sum() for weights in scaled)
    return lower, upper


def diagnosis(prior: float, likelihood: float) -> str:
    """Say in ArviZ's words what sensitivities to prior and likelihood mean."""
    if not prior >= THRESHOLD:  # nor where it is not a number
        return FINE
    return CONFLICT if likelihood >= THRESHOLD else WEAK


def _weights(log_density: Draws) -> tuple[Draws, Draws]:
    """Return `power_weights`, or nothing where stuck chains leave no tail to smooth."""
    if np.isfinite(log_density).all() and np.ptp(log_density) > 0.0:
        with warnings.catch_warnings(), suppress(ValueError):
            # Of few draws a tail holds fewer than ArviZ likes; weights are so near to one that nothing comes of it.
            warnings.simplefilter("ignore", UserWarning)
            return power_weights(log_density)
    return np.full_like(log_density, np.nan), np.full_like(log_density, np.nan)


def _total(densities: xr.Dataset, names: list[str]) -> Draws:
    return np.sum([densities[name].transpose("chain", "draw").to_numpy() for name in names], axis=0)


def _quantities(fit: "Fit") -> list[tuple[str, frozenset[str], Draws]]:
    """Return names, strata and draws of what is looked at; curves at three times, or at one if they are constant."""
    posterior = fit.posterior.to_dataset()
    reference = fit.data["prior_widths"].attrs.get(REFERENCE, 0.0) if "prior_widths" in fit.data.children else 0.0
    constant = fit.settings.curve == "constant"
    found = []
    for name, strata in CURVES.items():
        if name not in posterior:
            continue
        curve = posterior[name].transpose("chain", "draw", "time").to_numpy()
        values = np.arcsinh(curve / reference) if reference > 0.0 and name not in OF_DEVIATIONS else curve
        for time, share in ({"middle": TIMES["middle"]} if constant else TIMES).items():
            label = name if constant else f"{name}[{time}]"
            found.append((label, strata, values[:, :, round(share * (curve.shape[2] - 1))]))
    for name, strata in NUMBERS.items():
        if name == "tail_index" and constant:  # it is zero
            continue
        found.append((name, strata, posterior[name].transpose("chain", "draw").to_numpy()))
    return found
