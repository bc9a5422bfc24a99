"""Plots of fits and checks, on matplotlib axes of their own or the caller's.

Figures made here are plain `matplotlib.figure.Figure` objects: nothing is registered with pyplot, no global setting is
changed, no display is needed. Save one with ``axes.figure.savefig(...)``; in a notebook, end the cell with
``axes.figure``. Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; where
more than one curve is drawn, line style or marker says it too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from data_tools.errors import InputError

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit
    from lesde_infer.predictive import Check

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C8C00")
"""Blue, vermilion, green, purple, sky blue, orange, black, and olive in place of a yellow too pale for lines."""

BANDS = (0.9, 0.5)
"""Central posterior probability of the pale and of the dark band."""

METRIC_LABELS = {
    "linear_separability": "linearly separable\nclass pairs (share)",
    "linear_accuracy": "accuracy of a linear\nclassifier (share)",
    "ncm_accuracy": "nearest-class-mean\naccuracy (share)",
    "network_accuracy": "accuracy of the\nnetwork (share)",
    "nc1": "NC1: within-class\nvariability (no unit)",
    "nc2_equinorm": "NC2: variation of norms\nof class means (no unit)",
    "nc2_equiangular": "NC2: distance from equal\nangles (no unit)",
    "nc3": "NC3: distance from\nself-duality (no unit)",
    "nc4": "NC4: disagreement with\nnearest class mean (share)",
    "between_norm": "norm of class means\n(feature units)",
    "within_between_ratio": "within / between\nclasses (no unit)",
}
"""Axis label of each metric."""

_LOGARITHMIC = ("nc1", "between_norm", "within_between_ratio")
_STEPS = "optimizer steps"
_LEGEND: dict[str, Any] = {"framealpha": 0.8, "edgecolor": "none", "fontsize": "small"}
_MARKERS = "osD^vP*X"
_STYLES = ("-", "--", "-.", ":")
_N_DRAWS_SHOWN = 40
_MOST_VARIABLES = 4


def plot_elasticity(
    fit: "Fit", ax: Axes | None = None, *, quantities: Sequence[str] = ("gamma", "alpha", "beta")
) -> Axes:
    """Draw rates of the model against time: posterior medians with 50 % and 90 % bands.

    The vertical axis is linear around zero and logarithmic beyond where rates span more than two decades: the
    separation rate γ may change by a factor of 100,000 during one training, and its sign matters.

    Parameters
    ----------
    fit : Fit
    ax : Axes, optional
        Where to draw; a new figure if left out.
    quantities : sequence of str
        Names of rates in ``fit.posterior``; the default is γ = α − β, α (own class) and β (other classes).

    Raises
    ------
    InputError
        If the posterior lacks one of the quantities.
    """
    axes = _axes(ax)
    names = {
        "gamma": "γ: separation, α − β",
        "alpha": "α: own class",
        "beta": "β: other classes",
        "kappa": "κ: within classes",
        "pull": "η: pull of own residuals",
    }
    medians = []
    for position, name in enumerate(quantities):
        curve = _variable(fit.posterior, name)
        medians.append(_draw_bands(axes, curve, names.get(name, name), position, faint=position > 0))
    _scale_rates(axes, np.concatenate(medians))
    axes.axhline(0.0, color="0.4", linewidth=0.8, zorder=0)
    axes.set_xlabel(_STEPS)
    axes.set_ylabel("rate (per optimizer step)")
    axes.legend(**_LEGEND)
    return axes


def plot_noise_scales(fit: "Fit", ax: Axes | None = None) -> Axes:
    """Draw the noise scales of the strata against time: medians with 50 % and 90 % bands, logarithmic.

    Noise shared by a class is drawn twice, along the impact and across it, where the fit tells these apart.

    Raises
    ------
    InputError
        If the posterior lacks one of the scales.
    """
    axes = _axes(ax)
    names = {
        "global_scale": "shared by all classes",
        "class_scale": "shared by a class",
        "individual_scale": "of individual samples",
    }
    if "individual_scale_across" in fit.posterior:
        names |= {"individual_scale": "of samples, along class means", "individual_scale_across": "of samples, across"}
    if "impact_scale" in fit.posterior:
        names |= {
            "class_scale": "shared by a class, across the impact",
            "impact_scale": "shared by a class, along the impact",
        }
    for position, (name, label) in enumerate(names.items()):
        _draw_bands(axes, _variable(fit.posterior, name), label, position)
    axes.set_yscale("log")
    axes.set_xlabel(_STEPS)
    axes.set_ylabel("noise (feature units / √step)")
    axes.legend(**_LEGEND)
    return axes


def plot_predicted_against_observed(check: "Check", metric: str, ax: Axes | None = None) -> Axes:
    """Draw one metric as predicted under posterior draws (bands) and as observed (points).

    Points outside the 90 % band are crosses. A vertical line marks the step from which the prediction started.

    Raises
    ------
    InputError
        If the metric was not compared.
    """
    if metric not in check.predicted:
        raise InputError(f"the check holds no metric {metric!r}; it holds {', '.join(check.predicted)}")
    axes = _axes(ax)
    steps = np.asarray(check.steps, dtype=np.float64)
    predicted = np.asarray(check.predicted[metric], dtype=np.float64)
    observed = np.asarray(check.observed[metric], dtype=np.float64)
    if np.isfinite(predicted).any():
        _draw_quantiles(axes, steps, predicted, "predicted", 0)
    inside = inside_band(predicted, observed)
    axes.plot(steps[inside], observed[inside], "o", color="black", markersize=4, label="observed", zorder=4)
    if (~inside & np.isfinite(observed)).any():
        axes.plot(
            steps[~inside],
            observed[~inside],
            "X",
            color=OKABE_ITO[1],
            markersize=7,
            label="observed, outside",
            zorder=4,
        )
    if steps[0] < check.at_step <= steps[-1]:
        axes.axvline(check.at_step, color="0.4", linewidth=0.8, linestyle=":", label="prediction starts")
    values = np.concatenate([predicted.ravel(), observed])
    values = values[np.isfinite(values)]
    if metric in _LOGARITHMIC and values.size and values.min() > 0:
        axes.set_yscale("log")
    elif METRIC_LABELS.get(metric, "").endswith("(share)"):
        axes.set_ylim(-0.04, 1.04)
    axes.set_xlabel(_STEPS)
    axes.set_ylabel(METRIC_LABELS.get(metric, metric))
    axes.legend(**_LEGEND)
    return axes


def inside_band(
    predicted: Float[np.ndarray, "draw *step"], observed: Float[np.ndarray, " *step"]
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return where observed values lie within the central 90 % of the draws (ends included, not-a-number never).

    Undefined draws are left out; where no draw is defined, nothing is inside.
    """
    defined = np.isfinite(predicted).any(axis=0)
    low = np.full(np.shape(observed), np.nan)
    high = low.copy()
    if defined.any():
        low[defined], high[defined] = np.nanquantile(predicted[:, defined], [0.05, 0.95], axis=0)
    return (low <= observed) & (observed <= high)


def plot_class_means(check: "Check", axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw the paths of the class means: observed on the left, under posterior draws on the right.

    Class means are taken relative to their common centre at each step, since only differences between classes separate
    them, and projected on the plane in which the observed final class means spread most. In both panels numbered
    markers with black edges are the observed final class means; dots on the right are predicted ones.

    Parameters
    ----------
    check : Check
    axes : two Axes, optional
        Where to draw; a new figure if left out.

    Raises
    ------
    InputError
        If other than two axes are given.
    """
    if axes is None:
        panels = list(Figure(figsize=(7.5, 3.6), layout="constrained").subplots(1, 2))
    elif len(axes) == 2:
        panels = list(axes)
    else:
        raise InputError(f"class means are drawn on two axes, observed and predicted, but {len(axes)} were given")
    observed = np.asarray(check.class_means_observed, dtype=np.float64)
    predicted = np.asarray(check.class_means_predicted, dtype=np.float64)
    plane = _main_plane(observed)
    observed_paths, predicted_paths = (
        (means - means.mean(axis=-2, keepdims=True)) @ plane for means in (observed, predicted)
    )
    shown = np.linspace(0, len(predicted) - 1, min(len(predicted), _N_DRAWS_SHOWN)).astype(int)
    for k in range(observed.shape[1]):
        colour, marker = OKABE_ITO[k % len(OKABE_ITO)], _MARKERS[(k // len(OKABE_ITO)) % len(_MARKERS)]
        panels[0].plot(*observed_paths[:, k].T, color=colour, linewidth=1.2)
        for panel in panels:
            end = observed_paths[-1, k]
            panel.plot(*end, marker, color=colour, markersize=7, markeredgecolor="black", zorder=4)
            panel.annotate(str(k), end, xytext=(5, 5), textcoords="offset points", fontsize="small", zorder=5)
        for draw in shown:
            panels[1].plot(*predicted_paths[draw, :, k].T, color=colour, linewidth=0.5, alpha=0.35, rasterized=True)
        panels[1].plot(*predicted_paths[shown, -1, k].T, marker, color=colour, markersize=3, linestyle="none")
    corners = np.concatenate([observed_paths.reshape(-1, 2), predicted_paths[shown].reshape(-1, 2)])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    reach = 1.06 * float(np.abs(corners - middle).max()) or 1.0
    for panel, title in zip(panels, ("observed", f"predicted ({len(shown)} draws)"), strict=True):
        panel.set_title(title, fontsize="medium")
        panel.set_xlabel("main direction (feature units)")
        panel.set_xlim(middle[0] - reach, middle[0] + reach)
        panel.set_ylim(middle[1] - reach, middle[1] + reach)
        panel.set_aspect("equal", adjustable="box")
    panels[0].set_ylabel("second direction (feature units)")
    return panels


def plot_trace_rank(fit: "Fit", variables: Sequence[str] | None = None) -> list[Axes]:
    """Draw traces (left) and rank histograms (right) of each chain: chains that agree have flat histograms.

    Ranks are those of each draw among all chains (Vehtari et al. 2021, Bayesian Analysis 16(2), 667–718); the grey
    band holds 99 % of the counts of a histogram of independent draws.

    Parameters
    ----------
    fit : Fit
    variables : sequence of str, optional
        Names in ``fit.posterior``; of curves in time the last point is shown. Default: γ and the tail index,
        then other scalars, four in all.

    Raises
    ------
    InputError
        If a variable is missing.
    """
    posterior = fit.posterior
    if variables is None:
        scalars = [str(name) for name in posterior.data_vars if posterior[str(name)].dims == ("chain", "draw")]
        variables = list(dict.fromkeys(["gamma", "tail_index", *scalars]))[:_MOST_VARIABLES]
    figure = Figure(figsize=(7.5, 1.7 * len(variables) + 0.4), layout="constrained")
    panels = figure.subplots(len(variables), 2, squeeze=False)
    for (trace, ranks), name in zip(panels, variables, strict=True):
        draws = _variable(posterior, name)
        label = name
        if "time" in draws.dims:
            draws, label = draws.isel(time=-1), f"{name}, end"
        values = draws.transpose("chain", "draw").to_numpy()
        _draw_ranks(ranks, values)
        for chain, series in enumerate(values):
            trace.plot(series, color=OKABE_ITO[chain % len(OKABE_ITO)], linewidth=0.5, alpha=0.8, rasterized=True)
        trace.set_ylabel(label, fontsize="small")
    panels[-1, 0].set_xlabel("draw")
    panels[-1, 1].set_xlabel("rank among all draws")
    return list(panels.ravel())


def plot_energy(fit: "Fit", ax: Axes | None = None) -> Axes:
    """Draw the distribution of the energy, and of its changes from draw to draw, of Hamiltonian Monte Carlo.

    Changes much narrower than the energy itself mean that chains move slowly through the tails (Betancourt 2017,
    arXiv 1701.02434, section 6.1); the legend gives the fraction of missing information, worrying below 0.3.

    Raises
    ------
    InputError
        If the sample statistics lack the energy.
    """
    axes = _axes(ax)
    energy = _variable(fit.data["sample_stats"].to_dataset(), "energy").transpose("chain", "draw").to_numpy()
    changes = np.diff(energy, axis=1)
    fraction = float(((changes**2).mean(axis=1) / energy.var(axis=1)).min())
    centred = (energy - energy.mean()).ravel()
    bins = np.histogram_bin_edges(np.concatenate([centred, changes.ravel()]), bins=50).tolist()
    axes.hist(
        (energy - energy.mean()).ravel(), bins, density=True, color=OKABE_ITO[0], alpha=0.6, label="energy − mean"
    )
    axes.hist(
        changes.ravel(), bins, density=True, histtype="step", color=OKABE_ITO[1], linewidth=1.5, label="change per draw"
    )
    axes.set_xlabel("energy (natural log units)")
    axes.set_ylabel("density")
    axes.legend(**_LEGEND, title=f"smallest fraction {fraction:.2f}", title_fontsize="small")
    return axes


def _axes(ax: Axes | None) -> Axes:
    return ax if ax is not None else Figure(figsize=(7.0, 3.6), layout="constrained").add_subplot()


def _variable(dataset: xr.Dataset | xr.DataTree, name: str) -> xr.DataArray:
    if name not in dataset:
        raise InputError(f"the fit holds no variable {name!r}; it holds {', '.join(map(str, dataset.data_vars))}")
    variable = dataset[name]
    assert isinstance(variable, xr.DataArray)  # noqa: S101  (a group holds no groups of its own)
    return variable


def _draw_bands(
    axes: Axes, curve: xr.DataArray, label: str, position: int, *, faint: bool = False
) -> Float[np.ndarray, " time"]:
    """Draw a curve's bands over chains and draws; return its median."""
    values = curve.transpose("chain", "draw", "time").to_numpy()
    steps = curve["time"].to_numpy()
    return _draw_quantiles(axes, steps, values.reshape(-1, values.shape[-1]), label, position, faint=faint)


def _draw_quantiles(
    axes: Axes,
    steps: Float[np.ndarray, " step"],
    draws: Float[np.ndarray, "draw step"],
    label: str,
    position: int,
    *,
    faint: bool = False,
) -> Float[np.ndarray, " step"]:
    defined = np.isfinite(draws).any(axis=0)
    steps, draws = steps[defined], draws[:, defined]
    colour = OKABE_ITO[position % len(OKABE_ITO)]
    for probability, opacity in zip(BANDS, (0.12, 0.12) if faint else (0.22, 0.35), strict=True):
        low, high = np.nanquantile(draws, [0.5 - probability / 2, 0.5 + probability / 2], axis=0)
        if len(steps) == 1:
            axes.errorbar(
                steps, (low + high) / 2, yerr=(high - low) / 2, color=colour, linewidth=6 * opacity / 0.35, alpha=0.6
            )
        else:
            axes.fill_between(steps, low, high, color=colour, alpha=opacity, linewidth=0)
    median = np.nanmedian(draws, axis=0)
    style = "o" if len(steps) == 1 else _STYLES[position % len(_STYLES)]
    axes.plot(steps, median, style, color=colour, linewidth=1.2 if faint else 1.8, label=label)
    return cast(np.ndarray, median)


def _scale_rates(axes: Axes, medians: Float[np.ndarray, " value"]) -> None:
    """Choose a linear axis, or one linear up to the small rates and logarithmic beyond."""
    sizes = np.abs(medians[np.isfinite(medians) & (medians != 0)])
    if sizes.size == 0:
        return
    smallest, largest = np.quantile(sizes, 0.1), sizes.max()
    if largest > 100 * smallest:
        threshold = 10.0 ** np.floor(np.log10(max(smallest, 1e-5 * largest)))
        axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)


def _main_plane(observed: Float[np.ndarray, "step class_ feature"]) -> Float[np.ndarray, "feature 2"]:
    """Return two orthonormal directions: where the final class means spread most, then where the paths do."""
    centred = observed - observed.mean(axis=1, keepdims=True)
    final, paths = centred[-1], centred.reshape(-1, observed.shape[2])
    plane = np.zeros((observed.shape[2], 2))
    for column in range(2):
        final_rest, paths_rest = (points - points @ plane @ plane.T for points in (final, paths))
        # Two classes spread in one direction only: their paths choose the other.
        flat = np.abs(final_rest).max() <= 1e-9 * np.abs(final).max()
        _, singular, directions = np.linalg.svd(paths_rest if flat else final_rest, full_matrices=False)
        if singular[0] > 1e-12 * np.abs(paths).max():
            plane[:, column] = directions[0] * np.sign(directions[0, np.argmax(np.abs(directions[0]))])
    return plane


def _draw_ranks(axes: Axes, values: Float[np.ndarray, "chain draw"]) -> None:
    n_chains, n_draws = values.shape
    n_bins = max(2, min(20, n_draws // 10))
    ranks = rankdata(values).reshape(values.shape)
    edges = np.linspace(0.5, values.size + 0.5, n_bins + 1)
    expected = n_draws / n_bins
    # Hypergeometric counts of a bin are close to normal; 2.58 standard deviations hold 99 %.
    sd = np.sqrt(expected * (1 - 1 / n_bins) * (1 - 1 / n_chains)) if n_chains > 1 else 0.0
    axes.axhspan(expected - 2.58 * sd, expected + 2.58 * sd, color="0.88", zorder=0)
    for chain in range(n_chains):
        counts, _ = np.histogram(ranks[chain], edges)
        axes.stairs(counts, edges, color=OKABE_ITO[chain % len(OKABE_ITO)], linewidth=1.0)
    axes.set_ylim(bottom=0)


def figure_of(axes: Axes | Sequence[Axes]) -> Figure:
    """Return the figure that axes belong to."""
    first = axes if isinstance(axes, Axes) else axes[0]
    return cast(Figure, first.get_figure(root=True))
