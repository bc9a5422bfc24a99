"""Contrasts under a matrix of elasticity: the collapsed density against that of all coordinates; invariances."""

import numpy as np
import numpyro
import pytest
from core_helpers import elasticity, expected_increment, linear_drift, make_run
from scipy import linalg, stats

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import assemble
from lesde_infer.model import StrataData, increment_density
from lesde_infer.pattern_assembly import interval_information, pattern_data
from lesde_infer.pattern_model import (
    PatternParameters,
    PatternVariant,
    contrast_basis,
    kernel_gamma,
    pattern_density,
    predict_pattern,
)
from lesde_infer.snapshots import SnapshotReader
from lesde_infer.statistics import compute_statistics
from lesde_infer.step_sizes import step_sizes

DEGREES = jnp.array([[3.0, 7.0]])


def draw_parameters(rng, data, *, mixed=False, size=0.05):
    n_times = len(data.exposure)
    return PatternParameters(
        pattern=jnp.asarray(size * rng.normal(size=data.homogeneous.shape)),
        log_scale_curve=jnp.asarray(0.3 * rng.normal(size=n_times)),
        log_scale=jnp.asarray(-1.0 + 0.3 * rng.normal(size=(1, n_times))),
        attenuation=jnp.asarray((0.4 if mixed else 0.0) * rng.normal(size=(1, n_times))),
        degrees=DEGREES if mixed else jnp.array([[4.0, 4.0]]),
        interval_exponent=jnp.array([0.2 if mixed else 0.0]),
        size_slope=jnp.array([[0.6, 1.1]]) if mixed else jnp.zeros((1, 2)),
    )


def contrast_matrices(parameters, data):
    """C(t), entry by entry from the definition."""
    basis, n_classes = np.asarray(data.basis), len(data.basis)
    parts = np.asarray(parameters.pattern).reshape(n_classes - 1, -1, n_classes)
    pattern = np.einsum("kr,rbl,tb->tkl", basis, parts, np.asarray(data.drift))
    return np.exp(np.asarray(parameters.log_scale_curve))[:, None, None] * pattern


CASES = [("R", "out", 3, 4), ("R", "hidden", 3, 5), ("I", "hidden", 5, 4), ("L", "out", 3, 4), ("R", "out", 2, 3)]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("drifting", [False, True])
@pytest.mark.parametrize(("impact", "layer", "n_classes", "n_features"), CASES)
def test_density_is_that_of_all_contrasts(tmp_path, impact, layer, n_classes, n_features, drifting, mixed):
    """Mean and noise written out over all (K − 1)p coordinates, feedback by the definition of φ₁."""
    rng = np.random.default_rng(n_classes)
    with make_run(n_classes, n_features, 6).write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, layer, impact)
        reader = SnapshotReader(recording, layer, impact, "labels")
        snapshots = [reader.read(record)[1] for record in range(6)]
    data = pattern_data(statistics, mixed=mixed, drifting=drifting)
    np.testing.assert_array_equal(data.relative_size, step_sizes(statistics).relative)
    data = data._replace(relative_size=jnp.asarray(rng.uniform(-1.0, 2.0, size=5)))
    parameters = draw_parameters(rng, data, mixed=mixed)
    found = np.asarray(pattern_density(parameters, data).log_prob(data.increment_square))[0]
    matrices, basis = contrast_matrices(parameters, data), np.asarray(data.basis)
    steps, x = statistics.n_steps, np.asarray(data.relative_length)
    for t, length in enumerate(statistics.lengths):
        gamma = np.trace(matrices[t]) / (n_classes - 1)
        directions, mean = snapshots[t].directions, 0.0
        for axis, coordinates, feedback in zip(
            directions.axes, directions.coordinates.T, directions.axis_feedback, strict=True
        ):
            z = -feedback * gamma * length / n_classes
            phi = 1.0 if z == 0 else np.expm1(z) / z
            mean = mean + length / n_classes * phi * np.outer(matrices[t] @ coordinates, axis)
        mean = mean * np.exp(float(parameters.attenuation[0, t]) * x[t])
        first, last = np.asarray(parameters.size_slope[0])
        mean = mean * (1 + (first + (last - first) * x[t]) * float(data.relative_size[t]))
        increment = snapshots[t + 1].class_means - snapshots[t].class_means
        increment = increment - increment.mean(axis=0)
        exponent = float(parameters.interval_exponent[0])
        sd = np.exp(float(parameters.log_scale[0, t])) * np.sqrt(length) * (steps[t] / steps.max()) ** exponent
        short, long = np.asarray(parameters.degrees[0])
        expected = stats.multivariate_t(
            (basis.T @ mean).ravel(),
            sd**2 * np.eye((n_classes - 1) * increment.shape[1]),
            short ** (1 - x[t]) * long ** x[t],
        ).logpdf((basis.T @ increment).ravel())
        assert found[t] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("impact", "layer"), [("R", "out"), ("R", "hidden"), ("I", "hidden")])
def test_homogeneous_pattern_moves_contrasts_as_homogeneous_elasticity_does(tmp_path, impact, layer):
    """Against the matrix exponential of the linearised drift: feedback included."""
    n_classes, gamma = 3, 0.08
    run = make_run(n_classes, 4, 5)
    with run.write(tmp_path / "run.h5") as recording:
        statistics = compute_statistics(recording, layer, impact)
        reader = SnapshotReader(recording, layer, impact, "labels")
        snapshots = [reader.read(record)[1] for record in range(5)]
    data = pattern_data(statistics, mixed=False, drifting=False)
    flat = draw_parameters(np.random.default_rng(0), data)
    flat = flat._replace(pattern=gamma * data.homogeneous, log_scale_curve=jnp.zeros_like(flat.log_scale_curve))
    np.testing.assert_allclose(kernel_gamma(flat, data), gamma, rtol=1e-12)
    moved = np.asarray(predict_pattern(flat, data).directions @ flat.pattern.T)
    features = run.features if layer == "hidden" else run.logits
    for t, length in enumerate(statistics.lengths):
        weight = run.weight[t] if layer == "hidden" and impact == "R" else None
        operator, constant = linear_drift(
            impact, elasticity(gamma, 0.0, n_classes), features[t], run.labels, run.given, run.logits[t], weight
        )
        whole = expected_increment(snapshots[t].class_means, operator, constant, length)
        expected = np.asarray(data.basis).T @ whole @ snapshots[t].directions.axes.T
        np.testing.assert_allclose(moved[t].T, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_homogeneous_pattern_has_the_density_of_the_homogeneous_model_under_l(tmp_path):
    """Under L contrasts are one vector stratum in both models; intervals are short, for a matrix has no feedback."""
    run = make_run(3, 4, 5)
    time = 1e-7 * run.steps
    with run.write(tmp_path / "run.h5", time=time) as recording:
        statistics = compute_statistics(recording, "out", "L")
    data = pattern_data(statistics, mixed=False, drifting=False)
    gamma = 0.3
    parameters = draw_parameters(np.random.default_rng(1), data)
    parameters = parameters._replace(
        pattern=gamma * data.homogeneous, log_scale_curve=jnp.zeros_like(parameters.log_scale_curve)
    )
    found = np.asarray(pattern_density(parameters, data).log_prob(data.increment_square))[0]
    submodel = assemble(statistics, "constant")[0]
    assert isinstance(submodel.data, StrataData)
    homogeneous = submodel.variant.parameters(
        {"curve_weights": jnp.zeros((4, 1)), "degrees_excess": jnp.full((2, 1), 3.5)}, submodel.data
    )
    n_times = len(statistics.lengths)
    homogeneous = homogeneous._replace(
        location=jnp.stack([jnp.full(n_times, gamma), jnp.zeros(n_times)]),
        log_scale=jnp.concatenate([parameters.log_scale, parameters.log_scale]),
    )
    expected = increment_density(homogeneous, submodel.data, coupled=True).log_prob(submodel.data.increment_square)
    np.testing.assert_allclose(found, np.asarray(expected)[0], rtol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3, 10, 20])
def test_basis_is_orthonormal_and_spans_the_contrasts(n_classes):
    basis = contrast_basis(n_classes)
    np.testing.assert_allclose(basis.T @ basis, np.eye(n_classes - 1), atol=1e-14)
    np.testing.assert_allclose(basis @ basis.T, np.eye(n_classes) - 1 / n_classes, atol=1e-14)


@pytest.mark.parametrize("impact", ["R", "I"])
def test_density_and_gamma_do_not_depend_on_the_order_of_classes(tmp_path, impact):
    """Relabelled classes with the pattern's rows and columns permuted."""
    rng = np.random.default_rng(2)
    run, order = make_run(3, 4, 5), np.array([2, 0, 1])
    found = []
    for permuted in (False, True):
        options = {"labels": order[run.labels], "given_labels": order[run.given]} if permuted else {}
        features = {"hidden": run.features, "out": run.logits[:, :, np.argsort(order)] if permuted else run.logits}
        with run.write(tmp_path / f"{permuted}.h5", features=features, classifier=None, **options) as recording:
            statistics = compute_statistics(recording, "out", impact)
        data = pattern_data(statistics, mixed=False, drifting=False)
        if not permuted:
            pattern = rng.normal(size=(3, 3))
            pattern = 0.05 * (pattern - pattern.mean(axis=0))
            base = draw_parameters(rng, data)
        else:
            pattern = pattern[np.ix_(np.argsort(order), np.argsort(order))]
        own = base._replace(pattern=jnp.asarray(np.asarray(data.basis).T @ pattern))
        density = pattern_density(own, data).log_prob(data.increment_square)
        found.append((np.asarray(density), np.asarray(kernel_gamma(own, data)), interval_information(statistics)))
    for first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-9)


@pytest.mark.slow
def test_scale_and_pattern_cannot_stand_in_for_each_other(tmp_path):
    """Adding a constant to the scale's curve changes nothing: its weighted average is taken off."""
    with make_run(3, 4, 20).write(tmp_path / "run.h5") as recording:
        data = pattern_data(compute_statistics(recording, "out", "R"), mixed=False, drifting=False)
    variant = PatternVariant("gp", mixed=False)
    values = prior_draw(variant, data, 0)
    moved = {**values, "curve_weights": values["curve_weights"].at[0, 0].add(5.0)}
    first, second = (variant.parameters(v, data).log_scale_curve for v in (values, moved))
    np.testing.assert_allclose(first, second, atol=1e-12)
    assert float(data.weight @ first) == pytest.approx(0.0, abs=1e-12)


def prior_draw(variant, data, seed):
    trace = numpyro.handlers.trace(numpyro.handlers.seed(variant.model, seed)).get_trace(data)
    return {name: site["value"] for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}


@pytest.mark.parametrize("mixed", [False, True])
def test_information_is_the_covariance_of_the_score(tmp_path, mixed):
    """Over increments simulated as vectors: rows of the pattern and each curve, within five standard errors.

    Feedback is switched off: its dependence on γ is left out of the information.
    """
    rng = np.random.default_rng(5)
    with make_run(3, 4, 20).write(tmp_path / "run.h5") as recording:
        data = pattern_data(compute_statistics(recording, "out", "R"), mixed=mixed, drifting=False)
    sizes = jnp.asarray(rng.uniform(-1.0, 2.0, size=len(data.exposure)))
    data = data._replace(feedback=jnp.zeros_like(data.feedback), relative_size=sizes)
    variant = PatternVariant("constant", mixed=mixed, sized=True)
    values = prior_draw(variant, data, 3)
    values = {**values, "pattern": 0.5 * values["pattern"], "curve_weights": 0.3 * values["curve_weights"]}
    parameters = variant.parameters(values, data)
    prediction = predict_pattern(parameters, data)
    mean = np.asarray(prediction.directions @ parameters.pattern.T)
    degrees = np.asarray(pattern_density(parameters, data).degrees)[0]
    n_simulations = 8_000
    noise = rng.normal(size=(n_simulations, *mean.shape)) * np.exp(np.asarray(prediction.log_noise))[0][:, None, None]
    factor = degrees / rng.chisquare(degrees, size=(n_simulations, len(degrees)))
    increments = mean + np.sqrt(factor)[:, :, None, None] * noise

    def score(x, square):
        own = data._replace(increments=x, increment_square=square[None])

        def total(sites):
            at = variant.parameters({**values, **sites}, own)
            return pattern_density(at, own).log_prob(own.increment_square).sum()

        return jax.grad(total)({name: values[name] for name in ("pattern", "curve_weights")})

    scores = jax.jit(jax.vmap(score))(jnp.asarray(increments), jnp.asarray((increments**2).sum(axis=(2, 3))))
    for name, information in variant.information(values, data).items():
        own = np.asarray(scores[name])
        for row, matrix in enumerate(np.asarray(information)):
            if np.abs(matrix).max() < 1e-20:
                continue  # the level of the scale's curve, which is taken off, but for rounding
            eigenvalues, directions = linalg.eigh(matrix)
            for direction in directions.T[eigenvalues > 1e-6 * eigenvalues[-1]]:
                projected = (own[:, row] @ direction) ** 2
                error = projected.std() / np.sqrt(n_simulations)
                assert abs(projected.mean() - direction @ matrix @ direction) < 5 * error
