"""Flags: what the data do not identify, and where.

A flag names a stretch of the record in which a quantity should not be read at face value, and why:

- ``gamma_not_identified``: the class means of the impact differ by no more than the sampling of n probes explains
  (an F test at 1 %), or the posterior of γ is hardly narrower than its prior.
- ``interval_bias``: records are so far apart that impacts fluctuate and relax within an interval: those at its start
  and at its end have a cosine below `LEAST_PERSISTENCE`, and there are no bursts of short intervals to correct
  for it. The fluctuating part, small as it is, relaxes because elasticity is large along it, and an increment sees
  little of it: γ is then only bounded from below. On networks trained on digits and shapes, recorded at every step,
  γ of increments over n steps fell to 0.7 of that of single steps where the cosine over n steps was 0.98, and to 0.5
  at 0.95. It is also flagged where what increments miss of the γ of one step, as told by how impacts lose their
  direction over one interval and over two (`lesde_infer.persistence`), is more than half the width of its 90 %
  interval: γ from records more closely spaced would then lie outside.
- ``missing_data``: samples are missing at some records, or no time passes in some intervals, and what cannot be used
  for it was left out (`lesde_infer.missing`); from the first record concerned to the last.
- ``standstill``: no feature of any sample moved: no step was taken, or a record was stored twice. These intervals are
  left out of the likelihood, and rates there are interpolated.
- ``spike``: class means move more than a thousand times as far as in neighbouring intervals: a loss spike, or a record
  that is damaged. It is left out of the likelihood, and rates there are interpolated; replications repeat it as noise
  of the size it had.
- ``kappa_not_identified``, ``kappa_across_not_identified``: samples of a class are equal up to the rounding of stored
  numbers, along the span of the class means (or in all directions, where deviations are modelled as alike in all of
  them) or across it. Growth and noise of deviations are not measured there, nor is the pull: they are interpolated,
  and where no interval measures them they are the prior.
- ``beta_not_identified``: the rate g of the mean over classes, which tells β from α, is hardly narrower than its prior,
  or so large that the mean relaxes within one interval and g is only bounded from below (R); or, under L, all
  amplitudes are equal and only γ acts (DESIGN section 2).
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Bool, Float, Int

from lesde_infer.missing import MissingData

F_TEST_LEVEL = 0.01
LEAST_PERSISTENCE = 0.97
SATURATION = 3.0  # g λ Δ beyond which the mean over classes has relaxed by 95 % within one interval
LITTLE_LEARNED = 0.5  # posterior sd over prior sd: half the prior's width is left
SHORTEST_SHARE = 0.05  # of the record: shorter stretches are not reported
SPREADS = {
    "kappa_not_identified": ("log_growth_spread", "log_growth_along_spread"),
    "kappa_across_not_identified": ("log_growth_across_spread",),
}  # what tells whether samples of a class differ; a fit holds one of the first two
NEVER_TOO_SHORT = ("standstill", "spike")  # single intervals are named too


@dataclass(frozen=True)
class Flag:
    """A stretch of the record in which something is not identified.

    Attributes
    ----------
    name : str
        What kind, see the module's docstring.
    start_step, stop_step : int
        First and last optimizer step of the stretch.
    message : str
        What is not identified, why, and what would help.
    """

    name: str
    start_step: int
    stop_step: int
    message: str


_MESSAGES = {
    "gamma_not_identified": "γ has nothing to be identified by: the classes' impacts differ by no more than chance "
    "among this many probe samples, or the posterior is hardly narrower than the prior",
    "interval_bias": "records are so far apart that residuals relax between them: γ is only bounded from below; "
    "record in bursts (burst=2) or more densely here",
    "standstill": "no feature of any sample moved: no step was taken, or a record was stored twice; these intervals "
    "say nothing, and rates here are interpolated; record only while training",
    "spike": "class means jump more than a thousand times as far as in neighbouring intervals: a loss spike or a "
    "damaged record; these intervals are left out, and rates here are interpolated; look at the loss, or fit what "
    "comes before with --until",
    "kappa_not_identified": "samples of a class differ by no more than rounding along the span of the class means: κ, "
    "the pull and the noise of deviations are interpolated here, and are the prior where no interval measures them; "
    "probe samples that differ",
    "kappa_across_not_identified": "samples of a class differ by no more than rounding across the span of the class "
    "means, or the span leaves nothing across it: growth and noise of deviations across it are interpolated here, and "
    "are the prior where no interval measures them",
    "beta_not_identified": "the mean over classes moves too little, or relaxes too fast, between records: "
    "α and β are not identified one by one, only γ = α − β is",
}


def find_flags(
    posterior: xr.Dataset,
    constant: xr.Dataset,
    prior_widths: xr.Dataset,
    *,
    impact: str,
    missing: MissingData | None = None,
) -> list[Flag]:
    """Return the flags of a fit, in order of time.

    Parameters
    ----------
    posterior, constant : Dataset
        Groups of the fit (`lesde_infer.posterior`).
    prior_widths : Dataset
        ``gamma`` and ``global_rate`` along time: prior standard deviations of u, and the references.
    impact : str
        Impact of the fit.
    missing : MissingData, optional
        What was left out.
    """
    rates = {name: _flat(posterior[name]) for name in ("gamma", "global_rate")}
    unlearned = {
        name: hardly_learned(rates[name], prior_widths.attrs[f"{name}_reference"], prior_widths[name].to_numpy())
        for name in rates
    }
    sizes = constant["class_size"].to_numpy()
    n_samples = constant["start_samples"].to_numpy() if "start_samples" in constant else sizes.sum()
    length = constant["length"].to_numpy()
    where = {
        "gamma_not_identified": impact_within_chance(constant["impact_f"].to_numpy(), len(sizes), n_samples)
        | unlearned["gamma"],
        "beta_not_identified": unlearned["global_rate"],
    }
    if impact == "R":
        push = np.median(rates["global_rate"], axis=0) * length * constant["shared_feedback"].to_numpy()
        where["beta_not_identified"] = where["beta_not_identified"] | (push > SATURATION)
    if "moved" in constant:
        where["standstill"] = constant["moved"].to_numpy() == 0
        where["spike"] = constant["spike"].to_numpy() > 0
        undriven = (constant["driven"].to_numpy() == 0) & ~where["standstill"]
        where["gamma_not_identified"] = where["gamma_not_identified"] | undriven
    where |= _equal_samples(constant)
    if "interval_exponent" not in posterior:
        relaxing = (constant["impact_persistence"].to_numpy() < LEAST_PERSISTENCE) | _misses(rates["gamma"], constant)
        where["interval_bias"] = relaxing & ~where["gamma_not_identified"]
    steps, starts = constant["step"].to_numpy(), interval_starts(constant)
    flags = [flag for name, mask in where.items() for flag in flags_where(name, mask, steps, starts)]
    if missing is not None and not missing.is_complete:
        flags.append(Flag("missing_data", missing.start_step, missing.stop_step, missing.sentence))
    return sorted(flags, key=lambda flag: (flag.start_step, flag.name))


def _misses(gamma: Float[np.ndarray, "draw time"], constant: xr.Dataset) -> Bool[np.ndarray, " time"]:
    """Where what increments miss of γ is more than half the width of its interval; earlier versions did not keep it."""
    if "interval_loss" not in constant:
        return np.zeros(gamma.shape[1], dtype=bool)
    low, median, high = np.quantile(gamma, [0.05, 0.5, 0.95], axis=0)
    loss = constant["interval_loss"].to_numpy()
    return loss * np.abs(median) > (1.0 - loss) * (high - low) / 2.0


def _equal_samples(constant: xr.Dataset) -> dict[str, Bool[np.ndarray, " time"]]:
    """Where features move, but samples of a class do not differ, by the flag's name; earlier versions kept neither."""
    return {
        name: (constant["moved"].to_numpy() > 0) & (constant[spread].to_numpy() == 0)
        for name, spreads in SPREADS.items()
        for spread in spreads
        if spread in constant
    }


def interval_starts(constant: xr.Dataset) -> Int[np.ndarray, " time"]:
    """Return the record at which each fitted interval starts; it stops at the next. Earlier versions had no gaps."""
    if "start_record" in constant:
        return constant["start_record"].to_numpy()
    return np.arange(constant.sizes["record"] - 1)


def flags_where(
    name: str, mask: Bool[np.ndarray, " time"], steps: Int[np.ndarray, " record"], starts: Int[np.ndarray, " time"]
) -> list[Flag]:
    """Return a flag for each stretch of intervals that a mask marks, given the record at which each starts."""
    return [
        Flag(name, int(steps[starts[first]]), int(steps[starts[last] + 1]), _MESSAGES[name])
        for first, last in _stretches(mask, shortest=1 if name in NEVER_TOO_SHORT else None)
    ]


def impact_within_chance(
    impact_f: Float[np.ndarray, " time"], n_classes: int, n_samples: Int[np.ndarray, " time"] | int
) -> Bool[np.ndarray, " time"]:
    """Tell where class means of the impact differ by no more than chance, by an F test at 1 %."""
    critical = scipy.stats.f.ppf(1.0 - F_TEST_LEVEL, n_classes - 1, n_samples - n_classes)
    return impact_f < critical


def hardly_learned(
    rates: Float[np.ndarray, "draw time"], reference: float, prior_width: Float[np.ndarray, " time"]
) -> Bool[np.ndarray, " time"]:
    """Tell where the posterior of a rate is hardly narrower than its prior, both as standard deviations of u."""
    return _width(rates, reference) > LITTLE_LEARNED * prior_width


def _flat(variable: xr.DataArray) -> Float[np.ndarray, "draw time"]:
    values = variable.transpose("chain", "draw", "time").to_numpy()
    return values.reshape(-1, values.shape[-1])


def _width(rates: Float[np.ndarray, "draw time"], reference: float) -> Float[np.ndarray, " time"]:
    """Posterior standard deviation of u = asinh(rate/reference), from the central 68 %, which outliers do not move."""
    low, high = np.quantile(np.arcsinh(rates / reference), [0.16, 0.84], axis=0)
    return (high - low) / 2.0


def _stretches(mask: Bool[np.ndarray, " time"], *, shortest: int | None = None) -> list[tuple[int, int]]:
    """First and last interval of each run of flagged intervals; short gaps are bridged, short runs are dropped."""
    shortest = shortest or max(1, round(SHORTEST_SHARE * len(mask)))
    indices = np.flatnonzero(mask)
    if len(indices) == 0:
        return []
    breaks = np.flatnonzero(np.diff(indices) > shortest)
    starts, stops = indices[np.r_[0, breaks + 1]], indices[np.r_[breaks, len(indices) - 1]]
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True) if b - a + 1 >= shortest]
