"""What drives the future of a run: extrapolated rates, and noise whose size is drawn anew.

Rates and noise scales of class means are those of `lesde_infer.extrapolation` in the middle of each interval to come,
one set for each posterior draw, and the factor λ of each stratum's noise variance is drawn from the model,
λ ~ InverseGamma(ν/2, ν/2). (A replication, `lesde_infer.replication`, keeps what it was instead.) Deviations are
stretched along with the contrasts (`lesde_infer.stretching`).

Priors of curves allow for changes by orders of magnitude, and far beyond the record nothing but the prior speaks. One
thing the model itself then holds back: under R growth of contrasts by γ > 0 ends with the residuals, so that a path
depends on γ through its logarithm only. All else is held to the largest size that the same draw has anywhere in the
record: noise scales, the pull, the rate of the mean, γ < 0 (which moves classes without end) and under I and L γ of
either sign. (LeNet on shapes, two thirds of the labels wrong, from 30 %: with γ < 0 free the error of the norm of class
means is a third larger. With γ > 0 held as well, or kept as it was at the end of the record, forecasts that start
before classes separate miss it: 2.1 instead of 1.3 from 17 % at true labels, and no better over nine forecasts.)

Intervals to come are taken to be like the long ones of the record: ν and the scaling of noise with an interval's steps,
n^ω, are those of its own number of steps, as learned from a recording in bursts.

Noise along the impact has its scale in units of the noise across it in the same interval (`lesde_infer.assembly`): of
the interval's own, λ included, or where that moves in few dimensions of what is usual around.

tests/lesde_infer/test_future_rates.py checks moments and quantiles of what is drawn against the model's.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lesde_infer._jax import jnp
from lesde_infer.extrapolation import chosen_draws, continue_curves, continued_design
from lesde_infer.future_grid import FutureGrid
from lesde_infer.interval_lengths import MIXED_LENGTH_RATIO
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.model import interval_degrees
from lesde_infer.step_sizes import LEAST_SIZE_DIMENSIONS
from lesde_infer.stretching import Stretching

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

LARGEST_RATE = 1e150
RECENT_INTERVALS = 20  # of the record's end: what is usual of noise across the impact


def future_rates(fit: "Fit", grid: FutureGrid, stretching: Stretching, n_draws: int, seed: int) -> IntervalRates:
    """Draw what drives each interval to come, for posterior draws spread evenly over the chains.

    Parameters
    ----------
    fit : Fit
        Of a prefix, with a horizon no earlier than the grid's end.
    grid : FutureGrid
        Points in time that paths will pass.
    stretching : Stretching
        How deviations moved relative to contrasts.
    n_draws, seed : int
        Number of draws, and seed of all that is drawn anew.

    Returns
    -------
    IntervalRates
        Of deviations κ is relative to the growth of contrasts and noise to their size, for `simulate_records` with
        ``stretched``.

    Raises
    ------
    InputError
        If the fit has no horizon, or an earlier one.
    """
    drawn = _Drawn(fit, grid, n_draws, seed)
    strata = drawn.strata
    across = "class_noise" if "class_noise" in strata else "contrast"
    class_factor = drawn.factor(across)
    class_sd = drawn.held("class_scale") * drawn.of_steps(across) * drawn.root * class_factor
    impact_sd = class_sd
    if "class_noise" in strata:
        unit = drawn.noise_across(class_sd, class_factor)
        impact_sd = drawn.curves["impact_scale"] * drawn.of_steps("contrast") * unit * drawn.factor("contrast")
    global_sd = drawn.held("global_scale") * drawn.of_steps("shared") * drawn.root * drawn.factor("shared")
    pattern = drawn.pattern() if "pattern_scale" in drawn.curves else None
    gamma = np.einsum("dtkk->dt", pattern) / (fit.n_classes - 1) if pattern is not None else drawn.held("gamma")
    if pattern is None and fit.settings.impact == "R":
        gamma = np.maximum(gamma, drawn.curves["gamma"])  # growth ends with the residuals
    kappa, individual_sd = drawn.deviations(stretching)
    by_parts = kappa.shape[1] > 1
    gaussian = np.full(len(gamma), np.inf)  # factors are in the scales already, interval by interval
    return IntervalRates(
        gamma=_bounded(gamma),
        pattern=pattern,
        global_rate=drawn.held("global_rate"),
        kappa=kappa[:, 0],
        kappa_across=kappa[:, 1] if by_parts else None,
        pull=drawn.held("pull") if "pull" in strata else None,
        global_sd=_bounded(global_sd),
        class_sd=_bounded(class_sd),
        impact_sd=_bounded(impact_sd),
        individual_sd=individual_sd[:, 0],
        individual_sd_across=individual_sd[:, 1] if by_parts else None,
        global_dof=gaussian,
        class_dof=gaussian,
        impact_dof=gaussian,
        individual_dof=gaussian,
    )


class _Drawn:
    """What the intervals' drives are made of; random numbers are drawn in the order of the calls."""

    def __init__(self, fit: "Fit", grid: FutureGrid, n_draws: int, seed: int) -> None:
        self._fit, self._grid, self._n_draws = fit, grid, n_draws
        self.curves = continue_curves(fit, grid.midpoints, n_draws)
        self._draws = chosen_draws(fit.posterior.to_dataset(), n_draws)
        self._constant = fit.data["constant_data"].to_dataset()
        self.strata: set[str] = set(self._constant["stratum"].to_numpy().tolist())
        self._rng = np.random.default_rng([seed, 2])
        self.root = np.sqrt(grid.lengths)
        recorded = self._constant["n_steps"].to_numpy()
        self._is_mixed = "interval_exponent" in self._draws
        self._relative_steps = grid.n_steps / recorded.max()
        relative = np.log(grid.n_steps / recorded.min()) / np.log(max(recorded.max() / recorded.min(), 1 + 1e-9))
        self._relative_length = np.clip(relative, 0.0, 1.0)

    @property
    def _shape(self) -> tuple[int, int]:
        return self._draws.sizes["sample"], len(self._grid.lengths)

    def of_steps(self, stratum: str) -> Float[np.ndarray, "draw time"]:
        """n^ω relative to the longest interval of the record."""
        if not self._is_mixed:
            return np.ones(self._shape)
        return self._relative_steps ** self._draws["interval_exponent"].sel(stratum=stratum).to_numpy()[:, None]

    def factor(self, stratum: str) -> Float[np.ndarray, "draw time"]:
        """√λ of new intervals."""
        degrees = self._draws["degrees"].sel(stratum=stratum).to_numpy()
        if self._is_mixed:
            nu = np.asarray(interval_degrees(jnp.asarray(degrees), jnp.asarray(self._relative_length)))
        else:
            nu = np.broadcast_to(degrees[:, None], self._shape)
        return np.sqrt(nu / np.maximum(self._rng.chisquare(nu), np.finfo(np.float64).tiny))

    def noise_across(
        self, class_sd: Float[np.ndarray, "draw time"], factor: Float[np.ndarray, "draw time"]
    ) -> Float[np.ndarray, "draw time"]:
        """Return the noise across the impact that noise along it is in units of: with its factor, or what is usual.

        What is usual, relative to the scale, is the median over the last long intervals of the record.
        """
        if float(self._constant["dimension"].sel(stratum="class_noise")) + 1.0 > LEAST_SIZE_DIMENSIONS:
            return class_sd
        n_steps = self._constant["n_steps"].to_numpy()
        recent = self._draws.isel(time=np.flatnonzero(n_steps * MIXED_LENGTH_RATIO > n_steps.max())[-RECENT_INTERVALS:])
        at = continue_curves(self._fit, recent["time"].to_numpy(), self._n_draws)
        unit = recent["impact_scale"].to_numpy() / at["impact_scale"]
        usual = np.median(unit / recent["class_scale"].to_numpy(), axis=1)
        return usual[:, None] * class_sd / factor

    def held(self, name: str) -> Float[np.ndarray, "draw time"]:
        """Return a curve, held to the largest size that the same draw has in the record."""
        largest = np.abs(self._draws[name].to_numpy()).max(axis=1, keepdims=True)
        return np.clip(self.curves[name], -largest, largest)

    def deviations(
        self, stretching: Stretching
    ) -> tuple[Float[np.ndarray, "draw part time"], Float[np.ndarray, "draw part time"]]:
        """Draw the growth of each part relative to contrasts, per unit of time, and its noise relative to its size."""
        start = self._fit.times[0]
        log_time = np.diff(np.log(self._grid.times - start))
        walk = stretching.draw_walk(self._shape[0], self._rng)[:, :, None] * np.sqrt(log_time)
        growth = walk * self._rng.normal(size=walk.shape)
        # A pattern with noise of relative size σ is alike to what it was with a cosine of (1 + σ²)^−1/2.
        noise = np.sqrt(np.expm1(2.0 * stretching.forgetting[:, None] * log_time))
        return growth / self._grid.lengths, np.broadcast_to(noise, growth.shape)

    def pattern(self) -> Float[np.ndarray, "draw time class_to class_from"]:
        """Return C(t) of each interval (`lesde_infer.pattern_model`)."""
        patterns = self._draws["contrast_pattern"].to_numpy()[:, None]
        if "contrast_pattern_drift" in self._draws:
            last = self._draws["time"].to_numpy()[-1:]
            x = np.asarray(continued_design(self._fit, self._grid.midpoints).trend[:, 1])
            x_last = float(continued_design(self._fit, last).trend[0, 1])
            drift = x - x_last + float(self._constant["pattern_drift"][-1])
            patterns = patterns + drift[None, :, None, None] * self._draws["contrast_pattern_drift"].to_numpy()[:, None]
        return self.curves["pattern_scale"][:, :, None, None] * patterns


def _bounded(values: Float[np.ndarray, "draw time"]) -> Float[np.ndarray, "draw time"]:
    """Keep numbers finite: paths that they would drive leave the range of numbers, and are counted, all the same."""
    return np.clip(values, -LARGEST_RATE, LARGEST_RATE)
