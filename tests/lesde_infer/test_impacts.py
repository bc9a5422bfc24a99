"""Closed forms of one interval against matrix exponentials, numerical integration and plain formulas."""

import numpy as np
import pytest
from core_helpers import class_means, elasticity, expected_increment, linear_drift
from scipy import integrate, special

from lesde_infer._jax import jax, jnp
from lesde_infer.impacts import (
    MAXIMAL_GROWTH,
    elasticity_from_rates,
    feedback_coefficients,
    feedback_factor,
    feedback_sums,
    isotropic_directions,
    logits_coefficients,
    logits_directions,
    residual_directions,
    simplex_directions,
    spread_rate,
)
from lesde_infer.phi import MAXIMAL_EXPONENT, phi_1
from lesde_infer.residuals import softmax

LENGTH = 0.7
RATES = {  # (γ, g) as multiples of K and of one, so that an interval changes things by order one at any K
    "usual": (1.3, 0.4),
    "no elasticity": (0.0, 0.5),
    "no global rate": (0.8, 0.0),
    "no spread of amplitudes": (1.2, None),
    "both negative": (-1.1, -0.6),
    "nothing at all": (0.0, 0.0),
    "tiny": (1e-7, -1e-6),
}


def rates_of(name, n_classes):
    gamma, global_rate = RATES[name]
    gamma *= n_classes
    if global_rate is None:  # s = 0: α(K−1) + β = 0, which α = g + γ(K−1)/K and β = g − γ/K turn into this
        global_rate = -gamma * (n_classes - 2) / n_classes
    return gamma, global_rate


def moved(directions, contrast, shared):
    """Σⱼ cⱼ uⱼ of both strata: the movement of every class mean."""
    spread = np.einsum("j,jkf->kf", np.asarray(contrast), directions.contrast)
    return spread + np.asarray(shared)[: len(directions.shared)] @ directions.shared


def push_along(directions, gamma, global_rate, n_classes):
    contrast = feedback_coefficients(jnp.array([gamma * LENGTH / n_classes]), jnp.asarray(directions.contrast_feedback))
    shared = feedback_coefficients(jnp.array([global_rate * LENGTH]), jnp.asarray(directions.shared_feedback))
    return moved(directions, contrast[0], shared[0])


def move_isotropic(means, gamma, global_rate):
    return push_along(isotropic_directions(means), gamma, global_rate, len(means))


def move_logits(means, gamma, global_rate):
    coefficients = logits_coefficients(*(jnp.array([x]) for x in (gamma, global_rate, LENGTH)), jnp.asarray(len(means)))
    return moved(logits_directions(means), coefficients[0, 0], coefficients[1, 0])


MOVES = {"I": move_isotropic, "L": move_logits}


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("impact", ["I", "L"])
def test_closed_forms_are_the_matrix_exponential(impact, n_classes, rates):
    rng = np.random.default_rng(n_classes)
    gamma, global_rate = rates_of(rates, n_classes)
    means = rng.normal(size=(n_classes, n_classes))
    labels = np.arange(n_classes)
    drift = linear_drift(impact, elasticity(gamma, global_rate, n_classes), means, labels)
    expected = expected_increment(means, *drift, LENGTH)
    np.testing.assert_allclose(MOVES[impact](means, gamma, global_rate), expected, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("impact", ["I", "L"])
def test_closed_forms_are_the_integral_of_the_model_as_it_is_written(impact):
    rng = np.random.default_rng(5)
    n_classes, gamma, global_rate = 4, 3.0, 0.3
    means = rng.normal(size=(n_classes, n_classes)) + 1.0
    matrix = elasticity(gamma, global_rate, n_classes)

    def field(_, flat):
        x = flat.reshape(means.shape)
        d = np.eye(n_classes) - 1 / n_classes
        h = x if impact == "I" else np.array([d[k] * (d[k] @ x[k]) / (d[k] @ d[k]) for k in range(n_classes)])
        return (matrix @ h / n_classes).ravel()

    solution = integrate.solve_ivp(field, (0, LENGTH), means.ravel(), "DOP853", rtol=1e-12, atol=1e-13)
    expected = solution.y[:, -1].reshape(means.shape) - means
    np.testing.assert_allclose(MOVES[impact](means, gamma, global_rate), expected, rtol=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_logits_movement_is_the_published_closed_form(n_classes):
    """ΔX̄ᵏ = (γ/K) ā d̂ₖ φ(γ/K) + (1/K)(α δₖ d̂ₖ + β Σ_{l≠k} δₗ d̂ₗ) φ(s/K), with φ(x) = (e^{xΔ} − 1)/x."""
    means = np.random.default_rng(1).normal(size=(n_classes, n_classes))
    gamma, global_rate = rates_of("usual", n_classes)
    (alpha, *_), beta = elasticity(gamma, global_rate, n_classes)[0], elasticity(gamma, global_rate, n_classes)[0, 1]
    s = alpha + beta / (n_classes - 1)

    def phi(x):
        return np.expm1(x * LENGTH) / x

    axes = [(np.eye(n_classes)[k] - 1 / n_classes) / np.sqrt(1 - 1 / n_classes) for k in range(n_classes)]
    a = np.array([axes[k] @ means[k] for k in range(n_classes)])
    delta = a - a.mean()
    expected = np.zeros_like(means)
    for k in range(n_classes):
        others = sum(delta[j] * axes[j] for j in range(n_classes) if j != k)
        expected[k] = gamma / n_classes * a.mean() * axes[k] * phi(gamma / n_classes)
        expected[k] += (alpha * delta[k] * axes[k] + beta * others) / n_classes * phi(s / n_classes)
    np.testing.assert_allclose(move_logits(means, gamma, global_rate), expected, rtol=1e-10)


def test_equal_amplitudes_say_nothing_about_the_spread_rate():
    """On a perfect simplex only γ moves anything: directions that carry s vanish."""
    directions = logits_directions(3.0 * simplex_directions(4))
    np.testing.assert_allclose(directions.contrast[1], 0.0, atol=1e-14)
    np.testing.assert_allclose(directions.shared, 0.0, atol=1e-14)
    assert (directions.contrast[0] ** 2).sum() > 1.0


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_simplex_directions_are_a_centred_regular_simplex(n_classes):
    d = simplex_directions(n_classes)
    expected = np.full((n_classes, n_classes), -1 / (n_classes - 1))
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(d @ d.T, expected, atol=1e-14)
    np.testing.assert_allclose(d.sum(axis=0), 0.0, atol=1e-14)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_rates_and_elasticity_are_inverse_maps(n_classes):
    rng = np.random.default_rng(n_classes)
    alpha, beta = rng.normal(size=(2, 50))
    gamma, global_rate = alpha - beta, (alpha + (n_classes - 1) * beta) / n_classes
    s = alpha + beta / (n_classes - 1)
    found = elasticity_from_rates(jnp.asarray(gamma), jnp.asarray(global_rate), n_classes)
    np.testing.assert_allclose(found, [alpha, beta], atol=1e-14)
    np.testing.assert_allclose(spread_rate(jnp.asarray(gamma), jnp.asarray(global_rate), n_classes), s, atol=1e-14)
    # The design's inverse map from (γ, s).
    np.testing.assert_allclose((gamma + (n_classes - 1) * s) / n_classes, alpha, atol=1e-14)
    np.testing.assert_allclose((n_classes - 1) * (s - gamma) / n_classes, beta, atol=1e-14)


def test_phi_1_near_zero_and_far_from_it():
    z = np.concatenate([[0.0], np.geomspace(1e-12, 40.0, 200)])
    z = np.concatenate([-z, z])
    expected = special.exprel(z)
    np.testing.assert_allclose(phi_1(jnp.asarray(z)), expected, rtol=1e-12)
    np.testing.assert_allclose(phi_1(jnp.array([-1e3, -1e8, -1e300])), [1e-3, 1e-8, 1e-300], rtol=1e-12)
    assert float(phi_1(jnp.asarray(0.0))) == 1.0
    above = phi_1(jnp.array([MAXIMAL_EXPONENT, 1e3, 1e300]))
    np.testing.assert_allclose(above, special.exprel(MAXIMAL_EXPONENT), rtol=1e-12)


def test_sums_over_components_and_their_slopes():
    """As all coefficients at once give them, whether residuals relax, grow up to the stop, or beyond it."""
    rng = np.random.default_rng(0)
    shape = (2, 5)
    feedback, square, increment = (jnp.asarray(rng.normal(size=(*shape, 4))) for _ in range(3))

    def plain(push, moved):
        coefficients = moved[..., None] * feedback_factor(push, feedback)
        return (coefficients * square).sum(-1), (coefficients * (2.0 * increment - coefficients * square)).sum(-1)

    def fast(push, moved):
        return feedback_sums(push, moved, feedback, square, increment)

    for size in (0.1, 2.0, 20.0):
        push, moved = (jnp.asarray(size * rng.normal(size=shape)) for _ in range(2))
        for found, expected in zip(fast(push, moved), plain(push, moved), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * float(jnp.abs(expected).max()))
        slopes = [jax.jacrev(function, argnums=(0, 1))(push, moved) for function in (fast, plain)]
        for found, expected in zip(*map(jax.tree.leaves, slopes), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("impact", ["I", "L"])
def test_class_means_that_grow_a_hundredfold_grow_in_proportion_to_the_rate_from_there(impact):
    n_classes = 3

    def pushes(exponent):
        """Coefficient of the contrasts where γΔ/K is the exponent, and β such that s is γ under L."""
        rate = jnp.asarray(exponent)[None]
        if impact == "I":
            return feedback_coefficients(rate, -jnp.ones((1, 1)))[0, 0]
        return logits_coefficients(rate * n_classes, rate, jnp.ones(1), jnp.asarray(3.0))[0, 0, 0]

    for below in (-30.0, -1.0, 1e-9, 3.0, 0.999 * MAXIMAL_GROWTH):
        np.testing.assert_allclose(pushes(below), np.expm1(below), rtol=1e-12)
    np.testing.assert_allclose(pushes(MAXIMAL_GROWTH), 99.0, rtol=1e-12)
    for times in (1.5, 4.0, 1e6):
        np.testing.assert_allclose(pushes(times * MAXIMAL_GROWTH), 99.0 * times, rtol=1e-12)
    assert np.isfinite(jax.grad(pushes)(1e4))


def test_gradient_of_phi_1_is_finite_and_right():
    gradient = jax.jit(jax.vmap(jax.grad(phi_1)))
    near = np.array([-1e-3, -1e-4, -1e-5, 0.0, 1e-9, 1e-5, 1e-4, 1e-3])
    series = 1 / 2 + near / 3 + near**2 / 8 + near**3 / 30
    np.testing.assert_allclose(gradient(jnp.asarray(near)), series, rtol=1e-8)
    far = np.array([-1e3, -5.0, 5.0, 30.0])
    np.testing.assert_allclose(gradient(jnp.asarray(far)), (np.exp(far) * (far - 1) + 1) / far**2, rtol=1e-12)
    between = np.linspace(-2.0, 2.0, 81)[np.arange(81) != 40].astype(np.longdouble)  # where one formula takes over
    expected = ((between - 1) * np.expm1(between) / between + 1) / between
    np.testing.assert_allclose(gradient(jnp.asarray(between.astype(float))), expected.astype(float), rtol=1e-14)
    assert float(jax.grad(phi_1)(-1e300)) == 0.0
    assert np.isfinite(gradient(jnp.array([1e3, 1e300]))).all()


def residual_case(n_classes, n_features, seed):
    """Samples of equal classes, their residuals and curvature, and a classifier (None: the features are logits)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), 4)
    weight = None if n_features is None else rng.normal(size=(n_classes, n_features))
    features = rng.normal(size=(len(labels), n_classes if weight is None else n_features)) + labels[:, None]
    logits = features if weight is None else features @ weight.T
    probabilities = softmax(logits)
    residuals = class_means(np.eye(n_classes)[labels] - probabilities, labels)
    curvature = np.mean([np.diag(s) - np.outer(s, s) for s in probabilities], axis=0)
    return features, labels, logits, residuals, curvature, weight


WIDTHS = {"logits": None, "wide": 7, "square": 3, "narrow": 2}


@pytest.mark.parametrize("width", WIDTHS)
def test_residual_directions_are_orthogonal_and_add_up_to_the_impact(width):
    *_, residuals, curvature, weight = residual_case(3, WIDTHS[width], seed=0)
    directions = residual_directions(residuals, curvature, weight)
    push = residuals if weight is None else residuals @ weight
    np.testing.assert_allclose(directions.contrast.sum(axis=0), push - push.mean(axis=0), atol=1e-13)
    np.testing.assert_allclose(directions.shared.sum(axis=0), push.mean(axis=0), atol=1e-13)
    np.testing.assert_allclose(directions.contrast.mean(axis=1), 0.0, atol=1e-14)
    for vectors in (directions.contrast.reshape(len(directions.contrast), -1), directions.shared):
        gram = vectors @ vectors.T
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-13)
    assert (directions.contrast_feedback >= 0).all()


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("width", WIDTHS)
def test_residual_movement_is_the_linearised_equation_exactly(width, rates):
    features, labels, logits, residuals, curvature, weight = residual_case(3, WIDTHS[width], seed=1)
    gamma, global_rate = rates_of(rates, 3)
    found = push_along(residual_directions(residuals, curvature, weight), gamma, global_rate, 3)
    drift = linear_drift("R", elasticity(gamma, global_rate, 3), features, labels, labels, logits, weight)
    expected = expected_increment(class_means(features, labels), *drift, LENGTH)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-13)


def test_residual_movement_saturates_where_an_euler_step_overshoots():
    """However fast the push, class means stop where the linearised residuals vanish: Cδ = r."""
    *_, residuals, curvature, _ = residual_case(3, None, seed=2)
    directions = residual_directions(residuals, curvature, None)
    found = push_along(directions, 1e6, 1e6, 3)
    np.testing.assert_allclose(found @ curvature, residuals, atol=1e-12)
    assert np.isfinite(found).all()


def test_residual_movement_of_short_intervals_solves_the_nonlinear_model():
    """Linearisation is second order: halving the interval divides what it leaves out by four."""
    features, labels, _, residuals, curvature, _ = residual_case(3, None, seed=3)
    matrix = elasticity(3.0, 0.5, 3)

    def field(_, flat):
        x = flat.reshape(features.shape)
        r = class_means(np.eye(3)[labels] - softmax(x), labels)
        return (matrix @ r / 3)[labels].ravel()

    directions = residual_directions(residuals, curvature, None)
    errors = []
    for length in (0.02, 0.01):
        solution = integrate.solve_ivp(field, (0, length), features.ravel(), "DOP853", rtol=1e-12, atol=1e-13)
        expected = class_means(solution.y[:, -1].reshape(features.shape) - features, labels)
        found = push_along(directions, 3.0 * length / LENGTH, 0.5 * length / LENGTH, 3)
        errors.append(np.abs(found - expected).max())
        assert errors[-1] < 0.02 * np.abs(expected).max()
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_extreme_rates_leave_coefficients_and_gradients_finite():
    @jax.jit
    @jax.value_and_grad
    def total(rates):
        feedback = feedback_coefficients(rates, jnp.array([-1.0, 0.0, 3.0])).sum()
        return feedback + logits_coefficients(rates, -rates, jnp.ones(4), jnp.asarray(3.0)).sum()

    value, gradient = total(jnp.array([-1e4, -1e17, 1e4, 1e17]))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
