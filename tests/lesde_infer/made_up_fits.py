"""Fits that no sampler made: exact draws of conjugate normal models, arranged as a fit's are."""

import json

import numpy as np
import xarray as xr
from scipy import stats

from lesde_infer.fit_result import Fit

STRATA = ("contrast", "class_noise", "shared", "growth", "individual")
CHAINS, DRAWS, INTERVALS = 4, 750, 120


def curve(values):
    """A variable over chains, draws and intervals."""
    return ("chain", "draw", "time"), values


def make_fit(log_likelihood, *, posterior=None, log_prior=None, movement=None, class_sizes=(5, 5, 5), **settings):
    """Arrange densities (stratum to array of chain, draw, time) as a Fit; a posterior is needed for sensitivities."""
    n_intervals = next(iter(log_likelihood.values())).shape[2]
    steps = np.arange(n_intervals + 1) * 10
    movement = np.linspace(1.0, 2.0, n_intervals) if movement is None else movement
    chosen = {
        **{"layer": "out", "impact": "R", "elasticity": "homogeneous", "curve": "gp"},
        **{"group": "labels", "seed": 0, "until": None},
        **{name: value for name, value in settings.items() if name not in ("steps", "n_features")},
    }
    time = {"time": np.arange(n_intervals) * 10.0 + 5.0}
    groups = {
        "posterior": xr.Dataset(posterior or {}),
        "log_likelihood": xr.Dataset({name: curve(values) for name, values in log_likelihood.items()}, time),
        "observed_data": xr.Dataset({"contrast_increment_square": ("time", movement)}),
        "constant_data": xr.Dataset(
            {"step": ("record", settings.get("steps", steps)), "class_size": ("class_", list(class_sizes))},
            attrs={"n_features": settings.get("n_features", 3)},
        ),
    }
    if log_prior is not None:
        groups["log_prior"] = xr.Dataset({name: (("chain", "draw"), values) for name, values in log_prior.items()})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["settings"] = json.dumps(chosen)
    return Fit(tree)


def normal_posterior(rng, data, *, prior_mean=0.0, prior_sd=1.0, noise=1.0):
    """Exact draws of a mean with a normal prior, of which ``data`` are observations."""
    precision = 1.0 / prior_sd**2 + len(data) / noise**2
    mean = (prior_mean / prior_sd**2 + data.sum() / noise**2) / precision
    return rng.normal(mean, precision**-0.5, size=(CHAINS, DRAWS))


def normal_density(draws, data, noise=1.0):
    """Log density of each observation at each draw."""
    return stats.norm.logpdf(data, draws[:, :, None], noise)


def exact_elpd(data, *, prior_sd=1.0):
    """Log predictive density of each observation given all others, in closed form."""
    precision = 1.0 / prior_sd**2 + len(data) - 1.0
    return stats.norm.logpdf(data, (data.sum() - data) / precision, np.sqrt(1.0 + 1.0 / precision))
