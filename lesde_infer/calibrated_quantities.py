"""Which numbers of a posterior are calibrated: those that a fit prints, and the log likelihood of the data.

Each is a draw of what `lesde_infer.posterior` makes of the draws of all submodels, on the scale on which its prior is
about normal, which no rank depends on: rates r as asinh(r/reference), noise scales and degrees of freedom as
logarithms. The log likelihood depends on the data by itself, which reveals what numbers that depend on parameters
alone cannot: a posterior that takes no notice of part of the data (Modrák et al. 2023, Bayesian Analysis,
doi:10.1214/23-BA1404).
"""

from collections.abc import Callable

import numpy as np
import xarray as xr
from jaxtyping import Float

from lesde_infer.assembly import Stratum, locate
from lesde_infer.calibration_template import Template
from lesde_infer.posterior import LOCATIONS, NOISE_SCALES

TIME_SHARES = {"early": 0.1, "middle": 0.5, "late": 0.9}  # of the intervals
ENTRIES = ((0, 0), (0, 1), (1, 0))  # of matrices: one on the diagonal, and two off it that symmetry would make equal

Draws = Float[np.ndarray, "chain draw"]


def quantities(tree: xr.DataTree, template: Template) -> dict[str, Draws]:
    """Return the draws of every quantity that is calibrated, by name.

    Parameters
    ----------
    tree : DataTree
        What `lesde_infer.posterior.build_posterior` returns for a run of the template's shape.
    """
    posterior = tree["posterior"].to_dataset()
    names = {name for name in posterior.data_vars if "time" in posterior[name].dims}
    found: dict[str, Draws] = {}
    strata = {stratum for submodel in template.submodels for stratum in submodel.strata}
    for name in ("gamma", "alpha", "beta", "kappa", "kappa_across", "pull", "gamma_kernel"):
        if name in names:
            own = [stratum for stratum in strata if LOCATIONS.get(stratum) == name]
            scale = _asinh(template, own[0] if own else "contrast")
            found.update(_at_times(posterior[name], scale, template))
    for name in ("individual_scale", "individual_scale_across", *dict.fromkeys(NOISE_SCALES.values())):
        if name in names:
            found.update(_at_times(posterior[name], np.log, template))
    if "log_attenuation" in names:
        for stratum in posterior["class_mean_stratum"].to_numpy():
            found.update(_at_times(posterior["log_attenuation"].sel(class_mean_stratum=stratum), _as_it_is, template))
    if template.curve != "constant":  # of a constant it is zero
        found["tail_index"] = posterior["tail_index"].to_numpy()
    found["paper_tail_index"] = posterior["paper_tail_index"].to_numpy()
    for name, scale in (("degrees", np.log), ("interval_exponent", _as_it_is), ("size_slope", _as_it_is)):
        if name in posterior:
            found.update(_entries(posterior[name], scale))
    found.update(_of_matrix(posterior, template))
    for stratum, values in tree["log_likelihood"].to_dataset().data_vars.items():
        found[_label("log_likelihood", str(stratum))] = values.sum("time").to_numpy()
    return found


def _as_it_is(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return values


def _asinh(template: Template, stratum: Stratum) -> Callable[[np.ndarray], np.ndarray]:
    data, place = locate(template.submodels, stratum)
    reference = float(data.reference[place])
    return lambda values: np.arcsinh(values / reference)


def _at_times(curve: xr.DataArray, scale: Callable[[np.ndarray], np.ndarray], template: Template) -> dict[str, Draws]:
    """Return a curve at three times, or at one of them if it is constant."""
    n_intervals = curve.sizes["time"]
    times = {"middle": 0.5} if template.curve == "constant" else TIME_SHARES
    own = [str(curve.name), *(str(curve[name].item()) for name in curve.coords if curve[name].ndim == 0)]
    return {
        _label(own[0], *own[1:], time): scale(curve.isel(time=round(share * (n_intervals - 1))).to_numpy())
        for time, share in times.items()
    }


def _entries(values: xr.DataArray, scale: Callable[[np.ndarray], np.ndarray]) -> dict[str, Draws]:
    """Return every entry of what has no time."""
    if values.ndim == 2:  # one number a draw
        return {str(values.name): scale(values.transpose("chain", "draw").to_numpy())}
    stacked = values.stack(entry=[name for name in values.dims if name not in ("chain", "draw")], create_index=False)
    stacked = stacked.transpose("chain", "draw", "entry")
    names = [name for name in values.dims if name not in ("chain", "draw")]
    labels = [[str(stacked[name].to_numpy()[entry]) for name in names] for entry in range(stacked.sizes["entry"])]
    return {
        _label(str(values.name), *label): scale(stacked.isel(entry=entry).to_numpy())
        for entry, label in enumerate(labels)
    }


def _of_matrix(posterior: xr.Dataset, template: Template) -> dict[str, Draws]:
    """Return some entries of the matrix of elasticity and of its pattern, and the scale of the pattern."""
    if "contrast_pattern" not in posterior:
        return {}
    scale = _asinh(template, "contrast")
    found = {}
    if template.curve != "constant":  # of a constant it is one
        found.update(_at_times(posterior["pattern_scale"], np.log, template))
    middle = posterior.sizes["matrix_time"] // 2
    for row, column in ENTRIES:
        found[_label("contrast_pattern", str(row), str(column))] = scale(
            posterior["contrast_pattern"].isel(class_to=row, class_from=column).to_numpy()
        )
        found[_label("E", str(row), str(column), "middle")] = scale(
            posterior["E"].isel(matrix_time=middle, class_to=row, class_from=column).to_numpy()
        )
    return found


def _label(name: str, *places: str) -> str:
    return f"{name}[{', '.join(places)}]"
