"""Expected log predictive density (ELPD) of a fit: how well it predicts each recording interval from the others.

One recording interval is left out at a time, with Pareto-smoothed importance sampling
(PSIS-LOO; Vehtari, Gelman and Gabry 2017, doi:10.1007/s11222-016-9696-4; Vehtari et al. 2024, JMLR 25(72)) as
ArviZ does it. Higher values are better. Densities are of what every model describes, whatever its strata:

| group         | density of                                        | strata                                      |
|---------------|---------------------------------------------------|---------------------------------------------|
| `contrasts`   | increments of the contrasts between class means   | `contrast`, and `class_noise` if there is one |
| `shared`      | increments of the mean over classes               | `shared`                                    |
| `class_means` | increments of the class means, both together      | all of these                                |
| `growth`      | measured growth and pull of deviations            | `growth`, or by parts, and `pull`           |
| `individual`  | measured variance of individual noise             | `individual`, or by parts                   |
| `total`       | everything                                        | all                                         |

Under I and R with homogeneous elasticity, the contrasts are split into their component along the impact and the rest
(`lesde_infer.assembly`): an orthogonal change of coordinates, whose Jacobian is one, so that the product of the two
densities is a density of the same increments as the one of L or of a matrix. A group's log densities are summed draw
by draw before an interval is left out, which is right whether its strata depend on one another (contrasts and mean
under L) or not. Class means, growth and individual noise share nothing in any model: `total` is the sum of their ELPDs.

It is about predicting one interval from those around it, not about forecasting.
tests/lesde_infer/test_model_choice.py compares with closed forms and with exact leaving out.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

CONTRASTS = ("contrast", "class_noise")
GROUPS: dict[str, tuple[str, ...]] = {
    "contrasts": CONTRASTS,
    "shared": ("shared",),
    "class_means": (*CONTRASTS, "shared"),
    "growth": ("growth", "growth_along", "growth_across", "pull"),
    "individual": ("individual", "individual_along", "individual_across"),
}
"""Strata of each group but `total`; a stratum that a model does not have is passed over."""
MEASURED = (*GROUPS["growth"], *GROUPS["individual"])
PARTS = ("class_means", "growth", "individual")
"""Groups that share nothing, and together are `total`."""
TOTAL = "total"
MAXIMAL_PARETO_K = 0.7  # and less where draws are few
EFFICIENCY_INTERVALS = 20  # whose effective sample sizes are looked at
COLUMNS = ("elpd", "se", "p_loo", "pareto_k_bad_share")


@dataclass(frozen=True)
class PredictiveDensity:
    """Expected log predictive density of a fit; see the module's docstring.

    Attributes
    ----------
    table : Dataset, over ``group``
        ``elpd``; ``se``, its standard error; ``p_loo``, the effective number of parameters; ``pareto_k_bad_share``, the
        share of intervals whose Pareto k is above the limit, so that their estimate cannot be trusted.
    pointwise : Dataset, over ``group`` and ``time``
        ``elpd``, ``p_loo`` and ``pareto_k`` of each interval.
    run : RunIdentity
        What was fitted.
    warnings : tuple of str
        What ArviZ warned of, each once.
    """

    table: xr.Dataset
    pointwise: xr.Dataset
    run: "RunIdentity"
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, dict[str, float]]:
        """Return the table as plain numbers, by group and column."""
        return {
            str(group): {name: float(self.table[name].sel(group=group)) for name in COLUMNS}
            for group in self.table["group"].to_numpy()
        }


@dataclass(frozen=True, eq=False)
class RunIdentity:
    """By what fits of one recording, layer, grouping and records are known.

    Attributes
    ----------
    layer, group : str
        Layer, and labels that define the classes.
    class_sizes : array, shape (class,)
        Recorded samples of each class.
    steps : array, shape (record,)
        Optimizer steps of the records.
    movement : array, shape (interval,)
        Squared change of the contrasts between class means.
    split : bool
        Whether noise along the impact has a scale of its own; this may differ.
    measured : tuple of str
        Strata of numbers measured of the deviations.
    """

    layer: str
    group: str
    class_sizes: Int[np.ndarray, " class_"]
    steps: Int[np.ndarray, " record"]
    movement: Float[np.ndarray, " interval"]
    split: bool
    measured: tuple[str, ...]

    def difference(self, other: "RunIdentity") -> str | None:
        """Say in what another run differs, or return None where it is the same."""
        for name in ("layer", "group"):
            own, its = getattr(self, name), getattr(other, name)
            if own != its:
                return f"{name} '{own}' against '{its}'"
        if not np.array_equal(self.class_sizes, other.class_sizes):
            return f"{self.class_sizes.tolist()} samples a class against {other.class_sizes.tolist()}"
        if not np.array_equal(self.steps, other.steps):
            return (
                f"{len(self.steps)} records up to step {self.steps[-1]} against "
                f"{len(other.steps)} up to step {other.steps[-1]}"
            )
        if len(self.movement) != len(other.movement):  # gaps in a layer that one impact needs and another does not
            return f"{len(self.movement)} intervals without gaps against {len(other.movement)}"
        if not np.allclose(self.movement, other.movement, rtol=1e-6, atol=0.0):
            return "features that move otherwise"
        if self.measured != other.measured:
            return f"of deviations {', '.join(self.measured)} against {', '.join(other.measured)}"
        return None


def expected_log_predictive_density(fit: "Fit") -> PredictiveDensity:
    """Estimate how well a fit predicts each interval from the others, by PSIS-LOO.

    Parameters
    ----------
    fit : Fit
        What `lesde_infer.fit` returned.

    Returns
    -------
    PredictiveDensity
        ELPD per group of strata and in total, in nats; higher is better.
    """
    densities = fit.data["log_likelihood"].to_dataset()
    time = densities["time"]
    found: dict[str, tuple[np.ndarray, ...]] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for group, strata in GROUPS.items():
            own = [densities[name] for name in _strata_with_data(fit, strata) if name in densities]
            found[group] = leave_out(sum(own[1:], own[0]).transpose("chain", "draw", "time").to_numpy())
    limit = pareto_k_limit(densities.sizes["chain"] * densities.sizes["draw"])
    parts = [found[name] for name in PARTS]
    found[TOTAL] = (
        np.sum([part[0] for part in parts], axis=0),
        np.max([part[1] for part in parts], axis=0),
        np.sum([part[2] for part in parts], axis=0),
    )
    elpd, pareto_k, p_loo = (np.stack(values) for values in zip(*found.values(), strict=True))
    coordinates = {"group": list(found), "time": time.to_numpy()}
    both = ("group", "time")
    pointwise = xr.Dataset({"elpd": (both, elpd), "p_loo": (both, p_loo), "pareto_k": (both, pareto_k)}, coordinates)
    bad = ~(pareto_k <= limit)  # so written, NaN is bad
    table = xr.Dataset(
        {
            "elpd": ("group", elpd.sum(axis=1)),
            "se": ("group", np.sqrt(elpd.shape[1] * elpd.var(axis=1))),
            "p_loo": ("group", p_loo.sum(axis=1)),
            "pareto_k_bad_share": ("group", bad.mean(axis=1)),
        },
        {"group": list(found)},
    )
    remarks = [str(warning.message) for warning in caught]
    n_bad = int(bad[list(found).index(TOTAL)].sum())
    if n_bad:
        remarks.append(
            f"the Pareto k of {n_bad} of {elpd.shape[1]} intervals is above {limit:.2f}: leaving them out changes the "
            "posterior too much for importance sampling, and the ELPD is rather too high"
        )
    return PredictiveDensity(table, pointwise, _identity(fit), tuple(dict.fromkeys(remarks)))


def pareto_k_limit(n_draws: int) -> float:
    """Return the largest Pareto k at which an estimate from so many draws is reliable (Vehtari et al. 2024)."""
    return min(1.0 - 1.0 / np.log10(n_draws), MAXIMAL_PARETO_K) if n_draws > 1 else MAXIMAL_PARETO_K


def _strata_with_data(fit: "Fit", strata: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out noise across the impact where there is nothing: there the model repeats that along it."""
    n_features = int(fit.data["constant_data"].attrs["n_features"])
    nothing_across = (fit.n_classes - 1) * n_features == 1
    return tuple(name for name in strata if not (nothing_across and name == "class_noise"))


def _identity(fit: "Fit") -> RunIdentity:
    return RunIdentity(
        layer=fit.settings.layer,
        group=fit.settings.group,
        class_sizes=fit.class_sizes,
        steps=fit.steps,
        movement=fit.movement,
        split="class_noise" in fit.data["log_likelihood"].to_dataset(),
        measured=tuple(name for name in MEASURED if name in fit.data["log_likelihood"].to_dataset()),
    )


def leave_out(log_density: Float[np.ndarray, "chain draw time"]) -> tuple[Float[np.ndarray, " time"], ...]:
    """Return ELPD, Pareto k and p_loo of each interval."""
    efficiency = _relative_efficiency(log_density)
    intervals = [_leave_one_out(log_density[:, :, t], efficiency) for t in range(log_density.shape[2])]
    elpd, pareto_k, p_loo = np.array(intervals, dtype=float).T
    return elpd, pareto_k, p_loo


def _leave_one_out(log_density: Float[np.ndarray, "chain draw"], efficiency: float) -> tuple[float, float, float]:
    try:
        elpd, pareto_k, p_loo = array_stats.loo(log_density, chain_axis=0, draw_axis=1, r_eff=efficiency)
        return float(elpd), float(pareto_k), float(p_loo)
    except ValueError:  # no tail to smooth: all draws say the same, or chains are stuck
        if np.ptp(log_density) == 0.0:
            return float(log_density.flat[0]), -np.inf, 0.0
        return (np.nan,) * 3


def _relative_efficiency(log_density: Float[np.ndarray, "chain draw time"]) -> float:
    """Return the effective sample size of the density, relative to the number of draws; 1 where there is one chain."""
    n_chains, n_draws, n_intervals = log_density.shape
    if n_chains == 1:
        return 1.0
    chosen = np.unique(np.linspace(0, n_intervals - 1, EFFICIENCY_INTERVALS).round().astype(int))
    density = np.exp(log_density[:, :, chosen] - log_density[:, :, chosen].max(axis=(0, 1)))
    with np.errstate(all="ignore"):
        sizes = array_stats.ess(density, chain_axis=0, draw_axis=1, method="mean")
    share = float(np.mean(sizes)) / (n_chains * n_draws)
    return share if np.isfinite(share) and share > 0.0 else 1.0
