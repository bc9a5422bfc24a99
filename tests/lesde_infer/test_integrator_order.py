"""Order of convergence of every integrator, by regression over step sizes, against theory.

Theory. I and L are solved exactly for rates that are constant over an interval, so their error is rounding at any
step. R takes exponential Euler steps x + Δφ₁(ΔJ)f(x) with the curvature averaged over classes for J (`residual_means`).
As Δφ₁(ΔJ)f = Δf + Δ²Jf/2 + O(Δ³) and the flow is Δf + Δ²f'f/2 + O(Δ³), one step errs by Δ²(J − f')f/2: local order 2,
global order 1; moving the mean over classes after the contrasts (Lie's splitting) errs by as much. Where J is f' the
step is Rosenbrock's, local order 3 and global order 2 (Hochbruck and Ostermann 2010, Acta Numerica 19, section 2.4):
so it is for two classes whose contrasts alone move.
A matrix of elasticity relaxes at its mean eigenvalue instead of its own: global order 1 for all impacts.

Noise is added to the flow of an interval at its end. It is additive, and what that leaves out of an interval,
∫(e^{J(Δ−s)} − 1)σ dB, has mean zero and size Δ^{3/2}: strong order 1 (Kloeden and Platen 1992, section 10.3).
"""

import numpy as np
import pytest
from core_helpers import elasticity
from dynamics_helpers import SIZES, case, class_means, constant_rates, run
from scipy import integrate, linalg, special

from lesde_infer._jax import jax, jnp
from lesde_infer.impacts import IMPACTS, feedback_coefficients, residual_directions
from lesde_infer.integrators import Classes, Readout, growth, isotropic_means, residual_means, simplex_means
from lesde_infer.interval_rates import IntervalRates

TOLERANCE = 0.2
DURATION = 1.0
HALVINGS = np.arange(2, 9)  # an interval in 4 to 256 steps
K_AND_WIDTH = [(2, 2), (3, 3), (5, 5), (2, 6), (3, 7), (5, 3)]  # hidden layers where they differ


def order(steps, errors):
    """Slope of log error on log step, and the largest distance from the line."""
    x, y = np.log(steps), np.log(errors)
    slope, level = np.polyfit(x, y, 1)
    return slope, np.abs(y - slope * x - level).max()


def make_readout(n_classes, n_features, seed=1):
    """A random classifier, or that of logits."""
    if n_features == n_classes:
        return np.eye(n_classes), np.zeros(n_classes), None
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(n_classes, n_features)) / np.sqrt(n_features), 0.3 * rng.normal(size=n_classes)
    return weight, bias, (np.stack([weight] * 2), np.stack([bias] * 2))


def make_field(impact, matrix, kappa, groups, given, weight, bias):
    """Drift of samples (path, sample, feature), as the model is written: E h/K + κ(x − class mean)."""
    n_classes = len(matrix)
    averages = np.eye(n_classes)[groups] / np.bincount(groups)
    directions = np.eye(n_classes) - 1 / n_classes
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def field(x):
        means = averages.T @ x
        if impact == "I":
            impacts = means
        elif impact == "L":
            impacts = (means * directions).sum(axis=-1, keepdims=True) * directions
        else:
            residuals = np.eye(n_classes)[given] - special.softmax(x @ weight.T + bias, axis=-1)
            impacts = averages.T @ residuals @ weight
        return (matrix @ impacts / n_classes)[..., groups, :] + kappa * (x - means[..., groups, :])

    return field


def flow(features, field, length):
    """Integrate densely."""
    solution = integrate.solve_ivp(
        lambda _, flat: field(flat.reshape(features.shape)).ravel(),
        (0, length),
        features.ravel(),
        "DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    return solution.y[:, -1].reshape(features.shape)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("impact", ["I", "L"])
def test_linear_impacts_err_by_rounding_at_every_step(impact, n_classes):
    """The error against the matrix exponential is no larger with one step than with 64, and tiny with each."""
    features, groups, given = case(n_classes, n_classes)
    alpha, beta, kappa = 2.5, -0.7, 0.3
    field = make_field(impact, elasticity(alpha - beta, (alpha + (n_classes - 1) * beta) / n_classes, n_classes), kappa,
                       groups, given, None, None)  # fmt: skip
    basis = np.eye(features.size).reshape(-1, *features.shape)
    operator = field(basis).reshape(len(basis), -1).T
    expected = (linalg.expm(DURATION * operator) @ features.ravel()).reshape(features.shape)
    rates = constant_rates(alpha, beta, kappa, n_classes, n_intervals=64)
    for n_steps in 2 ** np.arange(0, 7, 2):  # intervals after the last that is kept are not simulated
        found = run(features, groups, given, DURATION / n_steps, rates, impact, keep=np.array([n_steps]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-13 * n_steps**0.5 * np.abs(expected).max())


def errors_of_residual_steps(features, groups, given, rates, weight, bias, classifier):
    n_classes = int(groups.max()) + 1
    alpha, beta, kappa = rates
    matrix = np.where(np.eye(n_classes, dtype=bool), alpha, beta)
    expected = flow(features, make_field("R", matrix, kappa, groups, given, weight, bias), DURATION)
    options = {"classifier": classifier}
    found = [
        run(features, groups, given, DURATION, constant_rates(*rates, n_classes), "R", substeps=int(m), **options)
        for m in 2**HALVINGS
    ]
    return np.array([np.abs(x - expected).max() for x in found])


@pytest.mark.parametrize(("n_classes", "n_features"), K_AND_WIDTH)
@pytest.mark.parametrize("rates", [(3.0, 0.5, 0.2), (-0.8, -1.0, 0.1)], ids=["attracted", "repelled"])
def test_residual_impact_has_global_order_one(n_classes, n_features, rates):
    features, groups, given = case(n_classes, n_features, corrupted=True)
    errors = errors_of_residual_steps(features, groups, given, rates, *make_readout(n_classes, n_features))
    slope, scatter = order(DURATION / 2**HALVINGS, errors)
    assert abs(slope - 1) < TOLERANCE, errors
    assert scatter < 0.3, errors


@pytest.mark.parametrize(("n_classes", "expected"), [(2, 2), (3, 1)])
def test_two_classes_have_global_order_two_where_contrasts_alone_move(n_classes, expected):
    """Contrasts δ and −δ change that of the residuals by the mean of both curvatures: J is the Jacobian."""
    features, groups, given = case(n_classes, n_classes, corrupted=True)
    rates = (4.0, -4.0 / (n_classes - 1), 0.0)  # g = 0
    errors = errors_of_residual_steps(features, groups, given, rates, np.eye(n_classes), np.zeros(n_classes), None)
    fine = HALVINGS >= 4  # errors of second and third order cancel in part where steps are long
    slope, _ = order(DURATION / 2 ** HALVINGS[fine], errors[fine])
    assert abs(slope - expected) < TOLERANCE, errors


@pytest.mark.parametrize("n_classes", [3, 5])
@pytest.mark.parametrize("impact", IMPACTS)
def test_a_matrix_of_elasticity_has_global_order_one(impact, n_classes):
    features, groups, given = case(n_classes, n_classes, corrupted=True)
    rng = np.random.default_rng(7)
    kappa, matrix = 0.2, rng.normal(size=(n_classes, n_classes)) + 2.0 * np.eye(n_classes)
    matrix += matrix.mean() - matrix.mean(axis=0)  # equal column means, as `lesde_infer.pattern_model` takes them to be
    pattern = matrix - matrix.mean(axis=0)
    gamma, global_rate = np.trace(pattern) / (n_classes - 1), matrix.mean()
    expected = flow(
        features, make_field(impact, matrix, kappa, groups, given, np.eye(n_classes), np.zeros(n_classes)), DURATION
    )
    shape, steps = (1, 128), 2 ** HALVINGS[:6]
    rates = IntervalRates(
        *(np.full(shape, value) for value in (gamma, global_rate, kappa)),
        *[np.zeros(shape)] * 4,
        *[np.full(1, np.inf)] * 4,
        pattern=np.broadcast_to(pattern, (*shape, n_classes, n_classes)),
    )
    found = [run(features, groups, given, DURATION / n, rates, impact, keep=np.array([n])) for n in steps]
    errors = [np.abs(x - expected).max() for x in found]
    slope, _ = order(DURATION / steps, errors)
    assert abs(slope - 1) < TOLERANCE, errors


@pytest.mark.parametrize(("n_classes", "n_features"), K_AND_WIDTH)
def test_the_increments_that_are_fitted_have_local_order_two_under_the_softmax(n_classes, n_features):
    """`feedback_coefficients` along `residual_directions`, from the record at an interval's start."""
    features, groups, given = case(n_classes, n_features, corrupted=True)
    weight, bias, classifier = make_readout(n_classes, n_features)
    alpha, beta = 3.0, 0.5
    gamma, global_rate = alpha - beta, (alpha + (n_classes - 1) * beta) / n_classes
    field = make_field("R", elasticity(gamma, global_rate, n_classes), 0.0, groups, given, weight, bias)
    lengths = 0.5 ** np.arange(5, 11)
    errors, moves = local_errors(features, groups, given, weight, bias, classifier, gamma, global_rate, field, lengths)
    slope, _ = order(lengths, errors)
    assert abs(slope - 2) < TOLERANCE, errors
    assert abs(order(lengths, moves)[0] - 1) < TOLERANCE, moves  # so that the relative error is of order one


def test_the_increments_that_are_fitted_have_local_order_three_for_contrasts_of_two_classes():
    features, groups, given = case(2, 2, corrupted=True)
    field = make_field("R", elasticity(8.0, 0.0, 2), 0.0, groups, given, np.eye(2), np.zeros(2))
    lengths = 0.5 ** np.arange(4, 10)
    errors, _ = local_errors(features, groups, given, np.eye(2), np.zeros(2), None, 8.0, 0.0, field, lengths)
    assert abs(order(lengths, errors)[0] - 3) < TOLERANCE, errors


def local_errors(features, groups, given, weight, bias, classifier, gamma, global_rate, field, lengths):
    """Error and size of the class means' increments, for each length."""
    n_classes = int(groups.max()) + 1
    s = special.softmax(features @ weight.T + bias, axis=1)
    residuals = class_means(np.eye(n_classes)[given] - s, groups)
    curvature = class_means(s[:, :, None] * (np.eye(n_classes) - s[:, None, :]), groups).mean(axis=0)
    directions = residual_directions(residuals, curvature, None if classifier is None else weight)
    errors, moves = [], []
    for length in lengths:
        expected = class_means(flow(features, field, length) - features, groups)
        spread = feedback_coefficients(
            jnp.array([gamma * length / n_classes]), jnp.asarray(directions.contrast_feedback)
        )
        common = feedback_coefficients(jnp.array([global_rate * length]), jnp.asarray(directions.shared_feedback))
        found = np.einsum("j,jkf->kf", spread[0], directions.contrast) + np.asarray(common[0]) @ directions.shared
        errors.append(np.abs(found - expected).max())
        moves.append(np.abs(expected).max())
    return np.array(errors), np.array(moves)


N_PATHS, FINEST, COARSER = 12, 12, np.arange(2, 8)


def strong_errors(impact, n_classes, n_features, alpha, beta, kappa):
    """Root mean square distance, at the end, from tiny Euler–Maruyama steps along the same Brownian paths."""
    features, groups, given = case(n_classes, n_features, corrupted=True)
    weight, bias, _ = make_readout(n_classes, n_features)
    gamma, global_rate = alpha - beta, (alpha + (n_classes - 1) * beta) / n_classes
    field = make_field(impact, elasticity(gamma, global_rate, n_classes), kappa, groups, given, weight, bias)
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(2**FINEST, N_PATHS, *features.shape)) * np.sqrt(DURATION / 2**FINEST)
    x = np.repeat(features[None], N_PATHS, axis=0)
    for increment in noise:
        x = x + field(x) * DURATION / 2**FINEST + increment
    averages = np.eye(n_classes)[groups] / np.bincount(groups)
    classes = Classes(jnp.asarray(groups), jnp.asarray(averages), jnp.asarray(averages.T @ np.eye(n_classes)[given]))
    basis, triangle = np.linalg.qr(weight.T)
    readout = Readout(jnp.asarray(triangle.T), jnp.asarray(basis.T), jnp.asarray(bias))

    def advance(state, increment, length):
        means = classes.averages.T @ state
        deviations = (state - means[classes.groups]).T
        if impact == "I":
            moved = isotropic_means(means, gamma, global_rate, length)
        elif impact == "L":
            moved = simplex_means(means, gamma, global_rate, length)
        else:
            moved = residual_means(
                means, deviations[None], gamma, global_rate, jnp.full(1, kappa), length,
                readout=readout, classes=classes, substeps=jnp.asarray(1),
            )  # fmt: skip
        return moved[classes.groups] + growth(kappa * length) * deviations.T + increment

    @jax.jit
    def simulate(increments, n_steps):
        def one_path(own):
            return jax.lax.fori_loop(
                0, n_steps, lambda i, state: advance(state, own[i], DURATION / n_steps), jnp.asarray(features)
            )

        return jax.vmap(one_path, in_axes=1)(increments)

    errors = []
    for n_steps in 2**COARSER:
        increments = np.zeros((2 ** COARSER[-1], *noise.shape[1:]))
        increments[:n_steps] = noise.reshape(n_steps, -1, *noise.shape[1:]).sum(axis=1)
        errors.append(np.sqrt(np.mean((np.asarray(simulate(increments, n_steps)) - x) ** 2)))
    return DURATION / 2**COARSER, np.array(errors)


@pytest.mark.parametrize(
    ("impact", "n_classes", "n_features"), [("I", 3, 4), ("L", 5, 5), ("R", 2, 2), ("R", 3, 3), ("R", 5, 3)]
)
def test_additive_noise_at_the_end_of_an_interval_has_strong_order_one(impact, n_classes, n_features):
    assert set(SIZES[n_classes]) != {min(SIZES[n_classes])}  # unbalanced
    steps, errors = strong_errors(impact, n_classes, n_features, 2.0, 0.3, -0.8)
    slope, _ = order(steps, errors)
    assert abs(slope - 1) < TOLERANCE, errors
