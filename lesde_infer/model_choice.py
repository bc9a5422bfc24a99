"""Which class of drift explains a run best: differences of expected log predictive densities (ELPD) between fits.

Densities are those of `lesde_infer.predictive_density`, paired by interval. Fits whose deviations are measured
otherwise (by parts, with a pull) are densities of other numbers, and are refused.

What an ELPD judges is drift and noise together:

- the family of curves is that of noise scales too, which change by orders of magnitude within a run: a constant is
  mostly beaten there;
- noise along the impact has a scale of its own under homogeneous I and R, and none under L and a matrix. Where steps
  scatter most along the impact, that alone may decide; `DriftComparison.notes` says where such fits meet.

Standard errors are √(n · variance) over the n intervals, as if these were independent. Noise of neighbouring intervals
depends on one another, and its Student-t of few degrees of freedom lets a few intervals weigh much: standard errors are
rather too small, and for fewer than 100 intervals hardly known (Sivula, Magnusson and Vehtari 2020, arXiv:2008.10296).
Differences below 4, or below 2 standard errors, are therefore called not resolved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from data_tools.errors import InputError
from lesde_infer.predictive_density import COLUMNS, TOTAL, PredictiveDensity, expected_log_predictive_density

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

LEAST_DIFFERENCE, LEAST_ERRORS = 4.0, 2.0  # of ELPD, and in standard errors: below either nothing is resolved
FEW_INTERVALS = 100


@dataclass(frozen=True)
class DriftComparison:
    """Fits of one run, held against each other by what they predict.

    Attributes
    ----------
    table : Dataset, over ``group`` and ``drift``
        Columns of `PredictiveDensity.table`, and the difference to the best of the group: ``difference``, ELPD of the
        best less one's own; ``difference_se``, its standard error, paired by interval; ``resolved``, whether it is at
        least 4 and at least 2 standard errors. Drifts stand in the order of their total, best first.
    best : str
        The drift of the highest ELPD in total.
    resolved : bool
        Whether all others are resolved from it.
    sentence : str
        Which drift explains the run best, and whether that is resolved.
    notes : tuple of str
        What to bear in mind about this comparison.
    warnings : tuple of str
        What ArviZ warned of, with the drift.
    """

    table: xr.Dataset
    best: str
    resolved: bool
    sentence: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable result: plain numbers, strings and lists."""
        columns = (*COLUMNS, "difference", "difference_se", "resolved")
        return {
            "best": self.best,
            "resolved": self.resolved,
            "sentence": self.sentence,
            "drifts": {
                str(drift): {
                    str(group): {name: self.table[name].sel(drift=drift, group=group).item() for name in columns}
                    for group in self.table["group"].to_numpy()
                }
                for drift in self.table["drift"].to_numpy()
            },
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def compare_drifts(fits: "Mapping[str, Fit | PredictiveDensity]") -> DriftComparison:
    """Hold fits of one run against each other, to see which class of drift explains it best.

    Parameters
    ----------
    fits : mapping of str to Fit or PredictiveDensity
        Fits of the same recording, layer, grouping and records, by name; or what
        `expected_log_predictive_density` returned for them, which takes little memory.

    Returns
    -------
    DriftComparison
        Paired differences of pointwise ELPD to the best with standard errors √(n · variance) over the n intervals, per
        group and in total.

    Raises
    ------
    InputError
        If there are no fits, or they are not of the same run.

    Notes
    -----
    Differences below 4, or below 2 standard errors, are not resolved, and the sentence says so. Standard errors take
    intervals for independent, and noise is Student-t; see the module's docstring.
    """
    if not fits:
        raise InputError("there is no fit to compare; give at least one, by name")
    densities = {
        name: fit if isinstance(fit, PredictiveDensity) else expected_log_predictive_density(fit)
        for name, fit in fits.items()
    }
    (first, reference), *others = densities.items()
    for name, density in others:
        if difference := reference.run.difference(density.run):
            raise InputError(
                f"fits '{first}' and '{name}' are not of the same run: {difference}; "
                "compare fits of one recording, layer, grouping and records, with within='isotropic'"
            )
    totals = {name: float(density.table["elpd"].sel(group=TOTAL)) for name, density in densities.items()}
    order = sorted(totals, key=lambda name: -np.nan_to_num(totals[name], nan=-np.inf))
    table = _with_differences([densities[name] for name in order], order)
    total = table.sel(group=TOTAL)
    rivals = total.isel(drift=slice(1, None))
    n_intervals = reference.pointwise.sizes["time"]
    notes = []
    if len(order) > 1 and n_intervals < FEW_INTERVALS:
        notes.append(f"{n_intervals} intervals are few: standard errors of differences are hardly known")
    if len({density.run.split for density in densities.values()}) > 1:
        notes.append(
            "homogeneous I and R give noise along the impact a scale of its own, L and a matrix do not: "
            "differences between them are of noise as much as of drift"
        )
    return DriftComparison(
        table=table,
        best=order[0],
        resolved=bool(rivals["resolved"].all()) and len(order) > 1,
        sentence=_sentence(total),
        notes=tuple(notes),
        warnings=tuple(f"{name}: {warning}" for name in order for warning in densities[name].warnings),
    )


def _with_differences(densities: list[PredictiveDensity], names: list[str]) -> xr.Dataset:
    """Put the tables of all fits side by side, and add what each is behind the best of each group."""
    table = xr.concat([density.table for density in densities], dim="drift").assign_coords(drift=names)
    pointwise = np.stack([density.pointwise["elpd"].to_numpy() for density in densities])  # (drift, group, time)
    best = np.argmax(np.nan_to_num(table["elpd"].transpose("drift", "group").to_numpy(), nan=-np.inf), axis=0)
    behind = np.take_along_axis(pointwise, best[None, :, None], axis=0) - pointwise
    difference = behind.sum(axis=2)
    error = np.sqrt(behind.shape[2] * behind.var(axis=2))
    columns = {
        "difference": difference,
        "difference_se": error,
        "resolved": (difference >= LEAST_DIFFERENCE) & (difference >= LEAST_ERRORS * error),
    }
    return table.assign({name: (("drift", "group"), values) for name, values in columns.items()})


def _sentence(total: xr.Dataset) -> str:
    names = [str(name) for name in total["drift"].to_numpy()]
    best, *rivals = names
    if not rivals:
        return f"{best} is the only drift that was fitted: there is nothing to compare it with."

    def behind(name: str) -> str:
        own = total.sel(drift=name)
        return f"{float(own['difference']):.1f} ± {float(own['difference_se']):.1f}"

    unresolved = [name for name in rivals if not total["resolved"].sel(drift=name)]
    if not unresolved:
        return f"{best} explains the run best: its ELPD is {behind(rivals[0])} above that of {rivals[0]}, the next."
    listed = ", ".join(f"{name} ({behind(name)} behind)" for name in unresolved)
    return (
        f"{best} has the highest ELPD, but it is not resolved from {listed}: "
        f"a difference below {LEAST_DIFFERENCE:.0f}, or below {LEAST_ERRORS:.0f} standard errors, decides nothing."
    )
