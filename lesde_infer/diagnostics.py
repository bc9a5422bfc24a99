"""Has the posterior been sampled? r̂, effective sample sizes and divergences, with the limits that a fit must meet.

Limits follow Vehtari et al. (2021, Bayesian Analysis 16, 667–718): rank-normalised split r̂ of at most 1.01 and an
effective sample size of at least 400, in the bulk and in the tails (5 % and 95 % quantiles), for four chains.
They are held by every parameter, and by the curves at up to `CURVE_POINTS` of their intervals.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from jaxtyping import Float

MAXIMAL_R_HAT = 1.01
MINIMAL_ESS = 400.0
TAIL = (0.05, 0.95)
CURVE_POINTS = 20  # curves have 18 weights each, all checked; their values are checked on a grid as fine


@dataclass(frozen=True)
class Diagnostics:
    """Convergence of a fit.

    Attributes
    ----------
    r_hat_max, ess_bulk_min, ess_tail_min : float
        Worst values over all parameters.
    divergences : int
        Divergent transitions after warm-up.
    converged : bool
        Whether every limit is met.
    problems : tuple of str
        What is not met, with the worst parameter.
    """

    r_hat_max: float
    ess_bulk_min: float
    ess_tail_min: float
    divergences: int
    converged: bool
    problems: tuple[str, ...]


def table(posterior: xr.Dataset) -> xr.Dataset:
    """Return r_hat, ess_bulk and ess_tail of every parameter, curves on a grid; one row a parameter."""
    names, values = _rows(posterior)
    return xr.Dataset(
        {
            "r_hat": ("parameter", array_stats.rhat(values, chain_axis=0, draw_axis=1)),
            "ess_bulk": ("parameter", array_stats.ess(values, chain_axis=0, draw_axis=1, method="bulk")),
            "ess_tail": ("parameter", array_stats.ess(values, chain_axis=0, draw_axis=1, method="tail", prob=TAIL)),
        },
        coords={"parameter": names},
    )


def summarise(posterior: xr.Dataset) -> xr.Dataset:
    """Return mean, sd and 5 % and 95 % quantiles of every parameter, and what `table` says of it."""
    _, values = _rows(posterior)
    low, high = np.quantile(values, TAIL, axis=(0, 1))
    columns = {
        "mean": values.mean(axis=(0, 1)),
        "sd": values.std(axis=(0, 1), ddof=1),
        "q05": low,
        "q95": high,
    }
    return xr.Dataset({name: ("parameter", column) for name, column in columns.items()}).merge(table(posterior))


def _rows(posterior: xr.Dataset) -> tuple[list[str], Float[np.ndarray, "chain draw parameter"]]:
    """Return names and draws of all that can vary, curves on a grid."""
    names, columns = [], []
    for name, variable in posterior.data_vars.items():
        draws = _thin_time(variable).transpose("chain", "draw", ...).to_numpy()
        flat = draws.reshape(*draws.shape[:2], -1)
        varying = flat.std(axis=(0, 1)) > 0  # a parameter that the model holds fixed has nothing to converge
        names += [f"{name}[{index}]" if flat.shape[2] > 1 else str(name) for index in np.flatnonzero(varying)]
        columns.append(flat[:, :, varying])
    return names, np.concatenate(columns, axis=2)


def _thin_time(variable: xr.DataArray) -> xr.DataArray:
    if "time" not in variable.dims or variable.sizes["time"] <= CURVE_POINTS:
        return variable
    return variable.isel(time=np.unique(np.linspace(0, variable.sizes["time"] - 1, CURVE_POINTS).round().astype(int)))


def worst(values: Float[np.ndarray, "chain draw quantity"]) -> tuple[float, float]:
    """Return the largest r̂, and the smallest effective sample size of bulk and tails; NaN where chains are stuck."""
    with np.errstate(all="ignore"):
        r_hat = array_stats.rhat(values, chain_axis=0, draw_axis=1)
        bulk = array_stats.ess(values, chain_axis=0, draw_axis=1, method="bulk")
        tail = array_stats.ess(values, chain_axis=0, draw_axis=1, method="tail", prob=TAIL)
    return float(np.max(r_hat)), float(np.min(np.minimum(bulk, tail)))


def diagnose(posterior: xr.Dataset, diverging: Float[np.ndarray, "chain draw"]) -> Diagnostics:
    """Judge the draws of a posterior."""
    rows = table(posterior)
    r_hat, bulk, tail = (rows[name].to_numpy() for name in ("r_hat", "ess_bulk", "ess_tail"))
    names = rows["parameter"].to_numpy()
    divergences = int(np.sum(diverging))
    problems = []
    # Comparisons are written so that NaN, which stuck chains give, fails them.
    if not np.all(r_hat <= MAXIMAL_R_HAT):
        worst = int(np.argmax(np.nan_to_num(r_hat, nan=np.inf)))
        problems.append(f"r_hat of {names[worst]} is {r_hat[worst]:.3f}, above {MAXIMAL_R_HAT}")
    for label, sizes in (("bulk", bulk), ("tail", tail)):
        if not np.all(sizes >= MINIMAL_ESS):
            worst = int(np.argmin(np.nan_to_num(sizes, nan=-np.inf)))
            problems.append(f"ess_{label} of {names[worst]} is {sizes[worst]:.0f}, below {MINIMAL_ESS:.0f}")
    if divergences:
        problems.append(f"{divergences} divergent transitions")
    return Diagnostics(
        r_hat_max=float(np.max(r_hat)),
        ess_bulk_min=float(np.min(bulk)),
        ess_tail_min=float(np.min(tail)),
        divergences=divergences,
        converged=not problems,
        problems=tuple(problems),
    )
