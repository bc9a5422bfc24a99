"""A picture of a fit beside what was measured on the live network. See `lesde_infer.plots`."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lesde_infer.plots import BANDS, OKABE_ITO
from lesde_infer.truth import gamma_per_step, interval_middles

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit
    from lesde_infer.truth import TruthCheck


def plot_truth(fit: "Fit", truth: "TruthCheck", ax: Axes | None = None) -> Axes:
    """Draw the measured separation rates of each window over the posterior of γ.

    The bands hold 50 % and 90 % of the posterior at each interval. Points are ratios of sums over the measurements in a
    window, horizontal bars its extent, vertical bars 90 % intervals; crosses are windows in which the two disagree,
    hollow points those that a flag covers. The vertical axis is linear around zero and logarithmic beyond where rates
    span more than two decades.

    Parameters
    ----------
    fit : Fit
    truth : TruthCheck
        Of this fit, from `lesde_infer.check_truth`.
    ax : Axes, optional
        Where to draw; a new figure if left out.
    """
    axes = ax if ax is not None else Figure(figsize=(7.0, 3.6), layout="constrained").add_subplot()
    steps, draws = interval_middles(fit), gamma_per_step(fit)
    for probability, opacity in zip(BANDS, (0.22, 0.35), strict=True):
        low, high = np.quantile(draws, [0.5 - probability / 2, 0.5 + probability / 2], axis=0)
        axes.fill_between(steps, low, high, color=OKABE_ITO[0], alpha=opacity, linewidth=0)
    axes.plot(steps, np.median(draws, axis=0), color=OKABE_ITO[0], linewidth=1.8, label="γ inferred")
    kinds = {
        "measured, compatible": [window for window in truth.unflagged if window.compatible],
        "measured, incompatible": [window for window in truth.unflagged if not window.compatible],
        "measured, flagged": [window for window in truth.windows if window.flag is not None],
    }
    for (label, windows), marker in zip(kinds.items(), ("o", "X", "o"), strict=True):
        if not windows:
            continue
        edges = np.array([(window.start_step, window.stop_step) for window in windows])
        rates = np.array([(w.mean.measured, w.mean.error_quantile * w.mean.error) for w in windows])
        axes.errorbar(
            edges.mean(axis=1),
            rates[:, 0],
            xerr=(edges[:, 1] - edges[:, 0]) / 2,
            yerr=rates[:, 1],
            fmt=marker,
            color=OKABE_ITO[1] if "incompatible" in label else OKABE_ITO[6],
            markerfacecolor="white" if "flagged" in label else None,
            linewidth=1.0,
            markersize=6,
            label=label,
        )
    sizes = np.abs([window.mean.measured for window in truth.windows])
    sizes = sizes[sizes > 0]
    if sizes.size and sizes.max() > 100 * sizes.min():
        threshold = 10.0 ** np.floor(np.log10(max(sizes.min(), 1e-5 * sizes.max())))
        axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    axes.axhline(0.0, color="0.4", linewidth=0.8, zorder=0)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("separation rate γ (per optimizer step)")
    axes.legend(framealpha=0.8, edgecolor="none", fontsize="small")
    return axes
