"""Log prior density of a draw: what power-scaling (`lesde_infer.prior_sensitivity`) raises to a power.

Only priors at the top of the hierarchy count, as Kallioinen et al. (2024) advise: those that depend on no other
parameter. The weights of a Gaussian process are normal given its amplitude and length scale, and the entries of a
pattern given its mean and spread. Such a density to a power is one of another amplitude, but for its normalisation;
scaling it would move the hyperparameters, whatever their own priors say.

Densities are those of the model's own coordinates, not of those in which it is sampled.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float
from numpyro.infer.util import log_density

from lesde_infer._jax import jnp

TOP_LEVEL_COLUMNS = {"curve_weights": 2, "pattern": 0}
"""Columns of whitened sites whose priors depend on no other site: level and slope of a curve (`lesde_infer.curves`)."""


def top_level_log_prior(model: Callable[[Any], None], values: Mapping[str, Array], data: Any) -> Float[Array, ""]:
    """Return the log density of the priors of a model's sites that depend on no other site, at values of the sites."""
    _, trace = log_density(model, (data,), {}, values)
    total = jnp.zeros(())
    for name, site in trace.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        if name in TOP_LEVEL_COLUMNS:
            own = site["fn"].base_dist.log_prob(site["value"])[:, : TOP_LEVEL_COLUMNS[name]]
        else:
            own = site["fn"].log_prob(site["value"])
        total = total + own.sum()
    return total
