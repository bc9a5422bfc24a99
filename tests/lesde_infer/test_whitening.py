"""Conditional whitening changes coordinates, not densities; its limits; and what it is for."""

from functools import partial

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from core_helpers import random_strata
from numpyro.infer.util import log_density
from scipy import stats

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import n_weights
from lesde_infer.model import strata_model
from lesde_infer.whitening import ConditionalWhitening, RescaledNormal, WhiteningPoint, unwhiten

N_CURVES, N_WEIGHTS = 3, 4


def random_point(rng, shape=(N_CURVES, N_WEIGHTS), rank=2, size=3.0):
    """Return positive semi-definite information of low rank, as where few intervals inform many weights."""
    root = size * rng.normal(size=(*shape, rank))
    return WhiteningPoint(jnp.asarray(root @ root.transpose(0, 2, 1)), jnp.asarray(size * rng.normal(size=shape)))


def random_prior(rng):
    return jnp.asarray(rng.normal(size=(N_CURVES, N_WEIGHTS))), jnp.asarray(
        rng.uniform(0.01, 30.0, (N_CURVES, N_WEIGHTS))
    )


def test_log_determinant_is_that_of_the_map():
    rng = np.random.default_rng(0)
    evaluate = jax.jit(unwhiten)
    slope = jax.jit(jax.jacrev(lambda e, *rest: unwhiten(e.reshape(N_CURVES, N_WEIGHTS), *rest)[0].ravel()))
    for _ in range(5):
        arguments = (jnp.asarray(rng.normal(size=(N_CURVES, N_WEIGHTS))), *random_prior(rng), random_point(rng))
        _, log_determinant = evaluate(*arguments)
        jacobian = np.asarray(slope(arguments[0].ravel(), *arguments[1:]))
        assert float(log_determinant) == pytest.approx(np.linalg.slogdet(jacobian)[1], rel=1e-10)


def test_map_is_the_documented_one():
    """w = μ + Q⁻¹(η − Λμ) + C⁻ᵀe with CCᵀ = Q = Λ + S⁻²: same mean, and same covariance Q⁻¹, whatever root C is."""
    rng = np.random.default_rng(1)
    (mean, sd), point = random_prior(rng), random_point(rng)
    evaluate = jax.jit(unwhiten)
    centre, _ = evaluate(jnp.zeros((N_CURVES, N_WEIGHTS)), mean, sd, point)
    steps = [evaluate(jnp.zeros((N_CURVES, N_WEIGHTS)).at[:, i].set(1.0), mean, sd, point)[0] for i in range(N_WEIGHTS)]
    for c in range(N_CURVES):
        precision = np.asarray(point.information[c]) + np.diag(np.asarray(sd[c]) ** -2.0)
        pull = np.asarray(point.natural[c] - point.information[c] @ mean[c])
        np.testing.assert_allclose(centre[c], mean[c] + np.linalg.solve(precision, pull), rtol=1e-7)
        root = np.array([step[c] - centre[c] for step in steps])
        np.testing.assert_allclose(root.T @ root, np.linalg.inv(precision), rtol=1e-6, atol=1e-9)


def test_derivatives_are_those_of_automatic_differentiation():
    """By coordinates, mean, sd, information and pull alike, of a function of weights and determinant."""

    def plain(e, mean, sd, point):
        factor = jnp.linalg.cholesky(jnp.eye(N_WEIGHTS) + sd[:, :, None] * point.information * sd[:, None, :])
        pull = sd * (point.natural - jnp.einsum("cij,cj->ci", point.information, mean))
        inner = jax.vmap(jnp.linalg.solve)(factor, pull) + e
        value = mean + sd * jax.vmap(lambda matrix, side: jnp.linalg.solve(matrix.T, side))(factor, inner)
        return value, jnp.log(sd).sum() - jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum()

    def measure(function):
        def total(arguments, weights):
            value, log_determinant = function(*arguments)
            return (weights * jnp.sin(value)).sum() + 0.7 * log_determinant**2

        return jax.jit(jax.grad(total))

    rng = np.random.default_rng(9)
    for rank in (1, N_WEIGHTS):
        e, weights = (jnp.asarray(rng.normal(size=(N_CURVES, N_WEIGHTS))) for _ in range(2))
        mean, sd = random_prior(rng)
        arguments = (e, mean, jnp.minimum(sd, 3.0), random_point(rng, rank=rank, size=1.0))
        found, expected = (jax.tree.leaves(measure(function)(arguments, weights)) for function in (unwhiten, plain))
        assert len(found) == 5
        for own, reference in zip(found, expected, strict=True):
            if own.ndim == 3:  # information is symmetric: only the symmetric part of its derivative means anything
                own, reference = (0.5 * (matrix + matrix.mT) for matrix in (own, reference))
            np.testing.assert_allclose(own, reference, rtol=1e-8, atol=1e-8 * float(jnp.abs(reference).max()))


def test_without_information_it_is_the_non_centred_parametrisation():
    rng = np.random.default_rng(2)
    mean, sd = random_prior(rng)
    e = jnp.asarray(rng.normal(size=(N_CURVES, N_WEIGHTS)))
    nothing = WhiteningPoint(jnp.zeros((N_CURVES, N_WEIGHTS, N_WEIGHTS)), jnp.zeros((N_CURVES, N_WEIGHTS)))
    value, log_determinant = unwhiten(e, mean, sd, nothing)
    np.testing.assert_allclose(value, mean + sd * e, rtol=1e-14)
    assert float(log_determinant) == pytest.approx(float(jnp.log(sd).sum()), rel=1e-14)


def test_flat_priors_give_the_likelihoods_own_coordinates():
    """As S → ∞ the centre is the maximum of the likelihood, Λ⁻¹η, and nothing overflows on the way."""
    rng = np.random.default_rng(3)
    point = random_point(rng, rank=N_WEIGHTS)
    mean, sd = jnp.zeros((N_CURVES, N_WEIGHTS)), jnp.full((N_CURVES, N_WEIGHTS), 1e7)
    centre, log_determinant = unwhiten(jnp.zeros((N_CURVES, N_WEIGHTS)), mean, sd, point)
    expected = np.linalg.solve(np.asarray(point.information), np.asarray(point.natural)[..., None])[..., 0]
    np.testing.assert_allclose(centre, expected, rtol=1e-6)
    assert float(log_determinant) == pytest.approx(-0.5 * np.linalg.slogdet(point.information)[1].sum(), rel=1e-6)


def site_model(mean, sd, point=None):
    """One site of weights with the Gaussian likelihood that ``point`` describes, if any."""
    weights = numpyro.sample("curve_weights", dist.Normal(mean, sd).to_event(2))
    if point is not None:
        quadratic = jnp.einsum("ci,cij,cj->", weights, point.information, weights)
        numpyro.factor("likelihood", (point.natural * weights).sum() - 0.5 * quadratic)


def whitened_log_density(model, point, site_values, *arguments):
    with numpyro.handlers.reparam(config={"curve_weights": ConditionalWhitening(point)}):
        return log_density(model, arguments, {}, site_values)[0]


def test_posterior_of_a_gaussian_likelihood_is_standard_normal():
    """Gradient −e and Hessian −1, exactly; at e = 0 the marginal likelihood over (2π)^(d/2)."""
    rng = np.random.default_rng(4)
    (mean, sd), point = random_prior(rng), random_point(rng)

    def total(flat):
        values = {"curve_weights_whitened": flat.reshape(N_CURVES, N_WEIGHTS)}
        return whitened_log_density(site_model, point, values, mean, sd, point)

    size = N_CURVES * N_WEIGHTS
    gradient, hessian = jax.jit(jax.grad(total)), jax.jit(jax.hessian(total))
    for start in (jnp.zeros(size), jnp.asarray(rng.normal(size=size))):
        np.testing.assert_allclose(gradient(start), -start, atol=1e-7)
        np.testing.assert_allclose(hessian(start), -np.eye(size), atol=1e-7)
    log_marginal = 0.0
    for m, s, information, natural in zip(*map(np.asarray, (mean, sd, *point)), strict=True):
        covariance = np.linalg.inv(information + np.diag(s**-2.0))
        shifted = natural + m / s**2
        log_marginal += 0.5 * (shifted @ covariance @ shifted - (m**2 / s**2).sum())
        log_marginal += 0.5 * np.linalg.slogdet(covariance)[1] - np.log(s).sum()
    assert float(total(jnp.zeros(size))) == pytest.approx(log_marginal - size / 2 * np.log(2 * np.pi), rel=1e-8)


def test_log_density_is_the_sites_own_and_the_jacobian():
    rng = np.random.default_rng(5)
    (mean, sd), point = random_prior(rng), random_point(rng)
    e = jnp.asarray(rng.normal(size=(N_CURVES, N_WEIGHTS)))
    value, log_determinant = unwhiten(e, mean, sd, point)
    expected = stats.norm(mean, sd).logpdf(value).sum() + float(log_determinant)
    found = whitened_log_density(site_model, point, {"curve_weights_whitened": e}, mean, sd)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def rescaled_model(mean, sd, point, factor):
    """The site with a Gaussian likelihood of c·w."""
    weights = numpyro.sample("curve_weights", RescaledNormal(mean, sd, factor).to_event(2))
    scaled = factor * weights
    quadratic = jnp.einsum("ci,cij,cj->", scaled, point.information, scaled)
    numpyro.factor("likelihood", (point.natural * scaled).sum() - 0.5 * quadratic)


def test_a_likelihood_of_rescaled_weights_is_whitened_at_every_scale():
    """Standard normal for any c with one and the same Λ and η, and the site's density is that of w."""
    rng = np.random.default_rng(7)
    (mean, sd), point = random_prior(rng), random_point(rng)
    flat = jnp.asarray(rng.normal(size=N_CURVES * N_WEIGHTS))

    @jax.jit
    @jax.grad
    def gradient(flat, factor):
        values = {"curve_weights_whitened": flat.reshape(N_CURVES, N_WEIGHTS)}
        return whitened_log_density(rescaled_model, point, values, mean, sd, point, factor)

    @jax.jit
    def gain(flat, factor):  # of density by the change of variables
        def value(flat):
            values = {"curve_weights_whitened": flat.reshape(N_CURVES, N_WEIGHTS)}
            model = numpyro.handlers.substitute(rescaled_model, data=values)
            with numpyro.handlers.reparam(config={"curve_weights": ConditionalWhitening(point)}):
                traced = numpyro.handlers.trace(model).get_trace(mean, sd, point, factor)
            return traced["curve_weights"]["value"].ravel()

        weights = value(flat)
        plain = log_density(
            rescaled_model, (mean, sd, point, factor), {}, {"curve_weights": weights.reshape(N_CURVES, N_WEIGHTS)}
        )[0]
        values = {"curve_weights_whitened": flat.reshape(N_CURVES, N_WEIGHTS)}
        whitened = whitened_log_density(rescaled_model, point, values, mean, sd, point, factor)
        return whitened - plain, jnp.linalg.slogdet(jax.jacrev(value)(flat))[1]

    for factor in (jnp.ones((N_CURVES, N_WEIGHTS)), jnp.asarray(rng.uniform(0.1, 10.0, (N_CURVES, N_WEIGHTS)))):
        np.testing.assert_allclose(gradient(flat, factor), -flat, atol=1e-6)
        found, expected = gain(flat, factor)
        assert float(found) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize("coupled", [False, True])
def test_whole_model_keeps_its_density(coupled):
    """The model of the strata in both coordinates, hyperparameters free: equal up to log |dw/de|, whatever Λ is."""
    rng = np.random.default_rng(6)
    data, *_ = random_strata(rng, 7, (6, 3), 2)
    shape = (4, n_weights("gp"))
    model = partial(strata_model, curve="gp", coupled=coupled, mixed=False)

    @jax.jit
    def both(sites, whitened, point):
        arguments = {**sites, "curve_weights_whitened": whitened}, data
        with_reparam = whitened_log_density(model, point, *arguments)
        zeros = jnp.zeros(shape)
        _, trace = log_density(model, (data,), {}, {**sites, "curve_weights": zeros})
        prior = trace["curve_weights"]["fn"].base_dist
        value, log_determinant = unwhiten(whitened, prior.loc, prior.scale, point)
        plain, _ = log_density(model, (data,), {}, {**sites, "curve_weights": value})
        return with_reparam, plain + log_determinant

    for size in (0.0, 0.3, 10.0):
        sites = {
            "curve_amplitude": jnp.asarray(rng.uniform(0.2, 1.0, size=4)),
            "curve_length": jnp.asarray(rng.uniform(0.3, 1.0, size=4)),
            "degrees_excess": jnp.asarray(rng.uniform(1.0, 3.0, size=(2, 1))),
        }
        found, expected = both(sites, jnp.asarray(0.3 * rng.normal(size=shape)), random_point(rng, shape, 5, size))
        assert float(found) == pytest.approx(float(expected), rel=1e-10)


def test_observed_weights_cannot_be_whitened():
    point = random_point(np.random.default_rng(7))

    def model():
        numpyro.sample("curve_weights", dist.Normal(0.0, 1.0), obs=jnp.zeros(()))

    with pytest.raises(ValueError, match="curve_weights is observed"):
        whitened_log_density(model, point, {})
