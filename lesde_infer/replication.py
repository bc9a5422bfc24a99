"""What drives a replication of the recorded run: rates of a posterior draw, and noise as large as it was.

The size of an interval's noise is a latent variable of the model: a factor λ on the variance of each stratum
(`lesde_infer.noise`), the growth rate of deviations and the variance of individual noise. A replication keeps these
latent variables of each interval at their posterior and draws the noise itself anew: it predicts the intervals that
were recorded, where new factors would predict other intervals. With the ν of about 2 of real runs, others hold
kicks larger than any that was recorded, and one of them would decide how a replicated run ends.

Given the interval's increment with squared residual R² in d dimensions at scale s, and λ ~ InverseGamma(ν/2, ν/2),

    λ | R² ~ InverseGamma((ν + d)/2, (ν + R²/s²)/2),

and R² need not be kept, since the stored log density of the increment, ℓ, gives it back:
1 + R²/(νs²) = exp(2 (c − ℓ)/(ν + d)), with c the log density at R = 0.

Where an interval is one measured number, its scatter around the curve, of variance λσ², is told from the error of
measuring it, which is Gaussian of variance e²: given λ the share w = λσ²/(λσ² + e²) of the residual is scatter, with
remaining variance we², and given the scatter s, λ ~ InverseGamma((ν + 1)/2, (ν + s²/σ²)/2). `SWEEPS` draws of one
given the other start from the λ of the fit, whose density lets λ widen the error as well. A fit needs it in closed
form, but a replication by it would take a residual of many errors for error, and leave out what happened. (LeNet on
shapes, true labels: over one interval late in training deviations shrank by a factor of 0.72 ± 0.02, of which such a
replication left 0.99. A few like it made deviations end 2.5 times too large, and class means, driven by what far
samples leave of residuals, 1.7 times too far apart.)

Some intervals tell nothing of a stratum, and their log density is not one. In a standstill nothing moves, and nothing
does in the replication. Where samples of a class are equal they stay so: no growth, no pull, noise of the size of
rounding. Where impacts vanish, noise along them has the factors of its prior. A spike is all noise, |Δ|² = λσ²χ²_d:
class means jump as far again, λσ² being |Δ|²/χ²_d, and deviations do what was measured.

tests/lesde_infer/test_replication.py checks the factors against their density and the rule by simulation.
"""

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from scipy.special import gammaln

from lesde_infer._jax import jnp
from lesde_infer.interval_rates import IntervalRates
from lesde_infer.model import interval_degrees

SWEEPS = 20
"""Times that scatter and its factor are drawn given each other."""


def scale_factors(
    log_density: Float[np.ndarray, "draw time"],
    scale: Float[np.ndarray, "draw time"],
    degrees: Float[np.ndarray, "draw time"],
    dimension: float,
    rng: np.random.Generator,
    observed: Bool[np.ndarray, " time"],
) -> Float[np.ndarray, "draw time"]:
    """Draw the factor λ of each interval's noise variance, given its increment, or from its prior where there is none.

    Parameters
    ----------
    log_density : array
        Log density of each interval's increment, a multivariate Student-t.
    scale : array
        Scale of that density, per dimension.
    degrees : array
        Its degrees of freedom ν.
    dimension : float
        Its dimensions d.
    rng : Generator
    observed : array
        Intervals whose increment was observed.
    """
    nu = degrees
    at_zero = gammaln((nu + dimension) / 2) - gammaln(nu / 2) - dimension / 2 * np.log(np.pi * nu * scale**2)
    spread = np.exp(np.where(observed, np.maximum(2 * (at_zero - log_density) / (nu + dimension), 0.0), 0.0))
    return nu * spread / rng.chisquare(np.where(observed, nu + dimension, nu), size=log_density.shape)


def scatter(
    residual: Float[np.ndarray, "draw time"],
    sd: Float[np.ndarray, "draw time"],
    error: Float[np.ndarray, " time"],
    degrees: Float[np.ndarray, "draw time"],
    factors: Float[np.ndarray, "draw time"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw time"]:
    """Draw the scatter of a measured number around its curve, given its residual from it.

    Parameters
    ----------
    residual : array
        Measured minus predicted.
    sd : array
        Scale of the scatter.
    error : array
        Standard error of the measurement.
    degrees : array
        Degrees of freedom ν of the scatter.
    factors : array
        λ of each interval to start from.
    rng : Generator
    """
    for _ in range(SWEEPS):
        variance = factors * sd**2
        share = variance / (variance + error**2)
        drawn = share * residual + np.sqrt(share) * error * rng.normal(size=residual.shape)
        factors = (degrees + (drawn / sd) ** 2) / rng.chisquare(degrees + 1.0, size=residual.shape)
    return drawn


def replicated_rates(data: xr.DataTree, n_draws: int, seed: int) -> IntervalRates:
    """Return what drives each interval, for posterior draws spread evenly over the chains.

    Attenuation of the drift in long intervals is not applied: it describes an estimate from sparse records, not the
    motion.

    Parameters
    ----------
    data : DataTree
        Of a fit.
    n_draws, seed : int
        Number of draws, and seed of the latent variables.
    """
    draws = _chosen(data["posterior"].to_dataset(), n_draws)
    densities = _chosen(data["log_likelihood"].to_dataset(), n_draws)
    constant, observed = data["constant_data"].to_dataset(), data["observed_data"].to_dataset()
    rng = np.random.default_rng([seed, n_draws])
    length, n_steps = constant["length"].to_numpy(), constant["n_steps"].to_numpy()
    root = np.sqrt(length)
    moved = _told(constant, "moved")
    spike = _told(constant, "spike") if "spike" in constant else ~moved
    told = moved & ~spike
    driven = told & _told(constant, "driven")

    def values(name: str) -> Float[np.ndarray, "draw time"]:
        return draws[name].to_numpy()

    relative_length = constant["relative_length"].to_numpy()

    def degrees(stratum: str) -> Float[np.ndarray, "draw time"]:
        own = draws["degrees"].sel(stratum=stratum).to_numpy()
        if own.ndim == 1:
            return np.broadcast_to(own[:, None], (len(own), len(length)))
        return np.asarray(interval_degrees(jnp.asarray(own), jnp.asarray(relative_length)))

    def of_steps(stratum: str) -> Float[np.ndarray, "draw time"]:
        """n^ω relative to the longest interval."""
        if "interval_exponent" not in draws:
            return np.ones((draws.sizes["sample"], len(length)))
        return (n_steps / n_steps.max()) ** draws["interval_exponent"].sel(stratum=stratum).to_numpy()[:, None]

    def factors(
        stratum: str, scale: Float[np.ndarray, "draw time"], told: Bool[np.ndarray, " time"]
    ) -> Float[np.ndarray, "draw time"]:
        dimension = float(constant["dimension"].sel(stratum=stratum))
        in_each = scale * np.sqrt(float(constant["noise_concentration"].sel(stratum=stratum)))
        return scale_factors(densities[stratum].to_numpy(), in_each, degrees(stratum), dimension, rng, told)

    def noise_sd(stratum: str, name: str) -> Float[np.ndarray, "draw time"]:
        sd = values(name) * of_steps(stratum) * root
        found = sd * np.sqrt(factors(stratum, sd, driven if stratum == "contrast" and has_own_noise else told))
        return np.where(moved, np.where(spike, jumps[stratum], found), 0.0)

    def measured(
        stratum: str,
        name: str,
        predicted: Float[np.ndarray, "draw time"],
        sd: Float[np.ndarray, "draw time"],
        elsewhere: Float[np.ndarray, " time"] | float,
    ) -> Float[np.ndarray, "draw time"]:
        """Draw what was measured, less its error; ``elsewhere`` is what there is where samples are equal."""
        error, spread = constant[f"{name}_error"].to_numpy(), _told(constant, f"{name}_spread")
        own = factors(stratum, np.sqrt(sd**2 + error**2), told & spread)
        residual = observed[name].to_numpy() - predicted
        found = predicted + scatter(residual, sd, error, degrees(stratum), own, rng)
        return np.where(spread, np.where(spike, observed[name].to_numpy(), found), elsewhere)

    def growth(suffix: str) -> Float[np.ndarray, "draw time"]:
        return rate(
            f"growth{suffix}", f"log_growth{suffix}", f"kappa{across(suffix)}", f"growth_scatter{across(suffix)}"
        )

    def rate(stratum: str, name: str, location: str, noise: str) -> Float[np.ndarray, "draw time"]:
        sd = values(noise) * of_steps(stratum) * root
        return np.where(moved, measured(stratum, name, values(location) * length, sd, 0.0) / length, 0.0)

    def individual_sd(suffix: str) -> Float[np.ndarray, "draw time"]:
        stratum = f"individual{suffix}"
        scale = values(f"individual_scale{across(suffix)}")
        log_variance = 2.0 * np.log(scale * of_steps(stratum)) + np.log(length)
        sd = values(f"individual_scatter{across(suffix)}")
        name = f"log_variance{suffix}"
        found = measured(stratum, name, log_variance, sd, observed[name].to_numpy())
        return np.where(moved, np.exp(found / 2.0), 0.0)

    strata = set(constant["stratum"].to_numpy())
    own = "" if "growth" in strata else "_along"
    has_across = "growth_across" in strata
    has_own_noise = "class_noise" in constant["stratum"]  # along the impact, as opposed to across it
    jumps = _jumps(constant, observed, draws.sizes["sample"], rng)
    class_sd = noise_sd("class_noise" if has_own_noise else "contrast", "class_scale")
    gaussian = np.full(draws.sizes["sample"], np.inf)
    is_matrix = "gamma_kernel" in draws
    return IntervalRates(
        gamma=np.where(moved, values("gamma_kernel" if is_matrix else "gamma"), 0.0),
        pattern=np.where(moved[:, None, None], _patterns(draws, constant), 0.0) if is_matrix else None,
        global_rate=np.where(moved, values("global_rate"), 0.0),
        kappa=growth(own),
        kappa_across=growth("_across") if has_across else None,
        pull=rate("pull", "pull_strength", "pull", "pull_scatter") if "pull" in strata else None,
        global_sd=noise_sd("shared", "global_scale"),
        class_sd=class_sd,
        impact_sd=noise_sd("contrast", "impact_scale") if has_own_noise else class_sd,
        individual_sd=individual_sd(own),
        individual_sd_across=individual_sd("_across") if has_across else None,
        global_dof=gaussian,
        class_dof=gaussian,
        impact_dof=gaussian,
        individual_dof=gaussian,
    )


def _jumps(
    constant: xr.Dataset, observed: xr.Dataset, n_draws: int, rng: np.random.Generator
) -> dict[str, Float[np.ndarray, "draw time"]]:
    """Draw the noise scales with which class means move as far as they did, by stratum, if all of that is noise."""
    n_features, n_classes = int(constant.attrs.get("n_features", 1)), constant.sizes.get("class_", 2)
    scales = {}
    for stratum, dimension in (("contrast", (n_classes - 1) * n_features), ("shared", n_features)):
        name = f"{stratum}_increment_square"
        square = observed[name].to_numpy() if name in observed else np.zeros(constant.sizes["time"])
        scales[stratum] = np.sqrt(square / rng.chisquare(dimension, size=(n_draws, len(square))))
    return {**scales, "class_noise": scales["contrast"]}


def _told(constant: xr.Dataset, name: str) -> Bool[np.ndarray, " time"]:
    """Return the intervals that a constant marks; all, where an earlier version did not keep it."""
    if name not in constant:
        return np.ones(constant.sizes["time"], dtype=bool)
    return constant[name].to_numpy() > 0


def across(suffix: str) -> str:
    """Return the suffix of variables of a part: those along the class means have the names of those of all."""
    return suffix if suffix == "_across" else ""


def _patterns(draws: xr.Dataset, constant: xr.Dataset) -> Float[np.ndarray, "draw time class_to class_from"]:
    """Return C(t) of each interval (`lesde_infer.pattern_model`)."""
    patterns = draws["contrast_pattern"].to_numpy()[:, None]
    if "contrast_pattern_drift" in draws:
        drift = constant["pattern_drift"].to_numpy()[None, :, None, None]
        patterns = patterns + drift * draws["contrast_pattern_drift"].to_numpy()[:, None]
    return draws["pattern_scale"].to_numpy()[:, :, None, None] * patterns


def _chosen(group: xr.Dataset, n_draws: int) -> xr.Dataset:
    samples = group.stack(sample=("chain", "draw")).transpose("sample", ...)
    return samples.isel(sample=np.unique(np.linspace(0, samples.sizes["sample"] - 1, n_draws).round().astype(int)))
