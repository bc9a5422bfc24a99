"""The class means of the LE-SDE under impact I as state-space models of dynestyx and cd-dynamax.

With K·p class means, not samples, as the state (a state of all samples would be hundreds of times as large), these
packages are given what lesde derives: that the drift of class means needs no sample. In orthonormal coordinates of the
classes, the first their mean times √K, the rest contrasts, the drift is diagonal: g for the mean, γ/K for contrasts.
Class means are observed as they are.

- `dynestyx-transition`: the exact Gaussian transition as `GaussianStateEvolution`, observed exactly
  (`DiracIdentityObservation`), scored by `LatentPathBuilder`: no filter, all intervals at once.
- `dynestyx-sde`: the SDE, `Discretizer` with Euler and Maruyama's step, otherwise the same.
- `dynestyx-kalman`: the SDE as `LTI_continuous` and `Filter` with `ContinuousTimeKFConfig`.
- `cd-dynamax`: the continuous-discrete Kalman filter of `ContDiscreteLinearGaussianSSM.marginal_log_prob`. Its own
  `fit_mcmc` trains whole arrays, and cannot tie the entries of the drift to γ and g, so NumPyro samples here too.

Filters need some noise of observations: 1/100 of a typical increment. Their differential equations are solved with one
step of fifth order an interval, which is exact to rounding at these rates.
"""

import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from plain_models import Run, orthonormal_contrasts, sample_rate, sample_scale, start_of, units_of
from timed_nuts import Task

OBSERVATION_NOISE = 1e-2  # of a typical increment
RATES = ("gamma", "shared_rate")


class States(NamedTuple):
    """Class means in orthonormal coordinates of the classes, and what tells typical sizes."""

    values: Float[np.ndarray, "record coordinate"]
    is_shared: Float[np.ndarray, " coordinate"]
    n_classes: int


def states_of(run: Run) -> States:
    """Return class means as one vector a record."""
    n_classes = run.n_classes
    basis = np.concatenate([np.full((1, n_classes), n_classes**-0.5), orthonormal_contrasts(n_classes)])
    values = np.einsum("ck,tkp->tcp", basis, run.class_means)
    is_shared = np.repeat(np.arange(n_classes) == 0, values.shape[2]).astype(float)
    return States(values.reshape(len(values), -1), is_shared, n_classes)


def peer_task(run: Run, variant: str) -> Task:
    """Return one of the state-space models on a recording."""
    states = states_of(run)
    units = units_of(run, "I")
    typical = OBSERVATION_NOISE * float(np.diff(states.values, axis=0).std())
    likelihood = {
        "dynestyx-transition": _transition,
        "dynestyx-sde": _sde,
        "dynestyx-kalman": _kalman,
        "cd-dynamax": _cd_dynamax,
    }[variant]()

    def model(values: Array, times: Array) -> None:
        n_intervals = len(times) - 1
        gamma, shared = sample_rate("gamma", units, n_intervals), sample_rate("shared_rate", units, n_intervals)
        # The first coordinate is the mean times √K.
        of_all, of_class = sample_scale("all", units) * states.n_classes**0.5, sample_scale("class", units)
        rates = jnp.where(states.is_shared > 0, shared, gamma / states.n_classes)
        scales = jnp.where(states.is_shared > 0, of_all, of_class)
        likelihood(values, times, rates, scales, typical)

    start = start_of(units, (*RATES, "scale_all", "scale_class"))
    arguments = (jnp.asarray(states.values), jnp.asarray(run.times))
    return Task(model, arguments, RATES, start, {name: units[name].width for name in RATES})


Likelihood = Callable[[Array, Array, Array, Array, float], None]


def _initial(values: Array) -> dist.Distribution:
    """Return a known distribution of the first record, which tells nothing of the parameters."""
    return dist.MultivariateNormal(values[0], jnp.eye(values.shape[1]))


def _transition() -> Likelihood:
    import dynestyx as dsx

    builder = dsx.LatentPathBuilder()

    def likelihood(values: Array, times: Array, rates: Array, scales: Array, _: float) -> None:
        def variance(state: Array, control: None, now: Array, then: Array) -> Array:
            twice = 2.0 * rates * (then - now)
            grown = jnp.where(jnp.abs(twice) < 1e-8, 1.0, jnp.expm1(twice) / jnp.where(twice == 0, 1.0, twice))
            return jnp.diag(scales**2 * (then - now) * grown)

        evolution = dsx.GaussianStateEvolution(
            lambda state, control, now, then: jnp.exp(rates * (then - now)) * state, variance
        )
        dynamics = dsx.DynamicalModel(
            initial_condition=_initial(values),
            state_evolution=evolution,
            observation_model=dsx.DiracIdentityObservation(),
        )
        with builder:
            dsx.sample("path", dynamics, obs_times=times, obs_values=values)

    return likelihood


def _sde() -> Likelihood:
    import dynestyx as dsx
    from dynestyx.discretizers import EulerMaruyamaConfig

    builder, discretizer = dsx.LatentPathBuilder(), dsx.Discretizer(EulerMaruyamaConfig())

    def likelihood(values: Array, times: Array, rates: Array, scales: Array, _: float) -> None:
        evolution = dsx.ContinuousTimeStateEvolution(
            drift=dsx.AffineDrift(A=jnp.diag(rates)), diffusion=dsx.DiagonalDiffusion(scales, bm_dim=len(scales))
        )
        dynamics = dsx.DynamicalModel(
            initial_condition=_initial(values),
            state_evolution=evolution,
            observation_model=dsx.DiracIdentityObservation(),
        )
        with builder, discretizer:
            dsx.sample("path", dynamics, obs_times=times, obs_values=values)

    return likelihood


def _kalman() -> Likelihood:
    import dynestyx as dsx
    from dynestyx.inference.configs.filter import ContinuousTimeKFConfig

    config = ContinuousTimeKFConfig(diffeqsolve_dt0=1.0, diffeqsolve_max_steps=4, warn=False)

    def likelihood(values: Array, times: Array, rates: Array, scales: Array, noise: float) -> None:
        identity = jnp.eye(len(rates))
        dynamics = dsx.LTI_continuous(
            A=jnp.diag(rates),
            L=jnp.diag(scales),
            H=identity,
            R=noise**2 * identity,
            initial_mean=values[0],
            initial_cov=identity,
        )
        with dsx.Filter(config):
            dsx.sample("path", dynamics, obs_times=times, obs_values=values)

    return likelihood


def _cd_dynamax() -> Likelihood:
    from cd_dynamax import ContDiscreteLinearGaussianSSM, KFHyperParams

    hyper = KFHyperParams(dt_final=1e-6, diffeqsolve_settings={"dt0": 1.0, "max_steps": 4})

    def likelihood(values: Array, times: Array, rates: Array, scales: Array, noise: float) -> None:
        size = values.shape[1]
        identity = jnp.eye(size)
        model = ContDiscreteLinearGaussianSSM(state_dim=size, emission_dim=size)
        known = {
            "initial_mean": values[0],
            "initial_cov": identity,
            "dynamics_weights": jnp.diag(rates),
            "dynamics_bias": jnp.zeros(size),
            "dynamics_diffusion_coefficient": jnp.diag(scales),
            "dynamics_diffusion_cov": identity,
            "emission_weights": identity,
            "emission_bias": jnp.zeros(size),
            "emission_cov": noise**2 * identity,
        }
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            defaults = model._default_cdlgssm_params()
            given = {name: {"params": value, "props": defaults[name]["props"]} for name, value in known.items()}
            parameters, _ = model.initialize(**given)
        numpyro.factor(
            "path",
            model.marginal_log_prob(
                parameters, values, t_emissions=times[:, None], filter_hyperparams=hyper, warn=False
            ),
        )

    return likelihood
