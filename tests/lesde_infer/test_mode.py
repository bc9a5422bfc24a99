"""The mode that chains start from: one objective in all coordinates, and no spikes."""

import numpy as np
import pytest
from core_helpers import make_run

from lesde_infer._jax import jax, jnp
from lesde_infer.assembly import assemble
from lesde_infer.calibration_template import simulated_template
from lesde_infer.mode import find_mode, objective, spread_around
from lesde_infer.simulated_increments import simulate_run
from lesde_infer.statistics import compute_statistics
from lesde_infer.variant import non_centred, site_values


@pytest.mark.parametrize(
    ("curve", "elasticity"), [("gp", "homogeneous"), ("power", "homogeneous"), ("constant", "matrix")]
)
def test_objective_does_not_depend_on_the_coordinates(tmp_path, curve, elasticity):
    """At the same weights and hyperparameters, non-centred and whitened by a random point: equal up to a constant."""
    with make_run(3, 4, 20).write(tmp_path / "run.h5") as recording:
        submodel = assemble(compute_statistics(recording, "out", "R"), curve, elasticity)[0]
    variant, data = submodel.variant, submodel.data
    plain = non_centred(variant, data)
    rng = np.random.default_rng(0)
    points = {}
    for site, point in plain.items():
        factor = rng.normal(size=point.information.shape)
        information = 3.0 * factor @ factor.swapaxes(1, 2)
        points[site] = point._replace(
            information=jnp.asarray(information), natural=rng.normal(size=point.natural.shape)
        )
    shapes = find_mode_start(variant, data, points)
    differences = []
    for _ in range(3):
        whitened = {name: jnp.asarray(0.3 * rng.normal(size=shape.shape)) for name, shape in shapes.items()}
        values = site_values(variant, whitened, data, points)
        # Non-centred coordinates are linear in the weights, so two of their positions tell how to get back to them.
        zero = {name: 0.0 * v if name.endswith("_whitened") else v for name, v in whitened.items()}
        ones = {name: 0.0 * v + 1.0 if name.endswith("_whitened") else v for name, v in whitened.items()}
        low, high = (site_values(variant, position, data, plain) for position in (zero, ones))
        back = {f"{site}_whitened": (values[site] - low[site]) / (high[site] - low[site]) for site in points}
        own = float(objective(variant)({**whitened, **back}, data, plain)[0])
        differences.append(float(objective(variant)(whitened, data, points)[0]) - own)
        assert own != pytest.approx(0.0)
    np.testing.assert_allclose(differences, 0.0, atol=1e-7 * abs(own))


def find_mode_start(variant, data, points):
    """Return a position, for its names and shapes."""
    from lesde_infer.mode import _start

    return _start(variant)(data, points)


@pytest.mark.slow
def test_curves_do_not_pass_through_single_intervals():
    """A made-up run on which the mode of the joint density is a spike, with an information of 10¹³ and more.

    There γ passes through a dozen intervals while their noise vanishes, and whitening by it gave draws that were not
    numbers.
    """
    for submodel in simulated_template(curve="gp").submodels[:1]:
        mode, points = find_mode(submodel.variant, submodel.data)
        information = np.asarray(points["curve_weights"].information)
        assert np.linalg.eigvalsh(information).min() > -1e-6
        assert information.max() < 1e5
        values = site_values(submodel.variant, mode, submodel.data, points)
        parameters = submodel.variant.parameters(values, submodel.data)
        assert np.asarray(parameters.log_scale).min() > -3.0  # of the noise along the impact over that across


@pytest.mark.slow
def test_the_spread_around_the_mode_is_that_of_the_curvature():
    """Against automatic second derivatives; whitened weights have one, and nothing has more.

    In run 15 of the prior drift is thousands of times the noise, and the time scale of the power law is known to a
    hundredth: chains that started a fifth away did not find one another.
    """
    run = simulate_run(simulated_template(curve="power", strata="class-means").submodels[:1], 0, 15)
    variant, data = run.submodels[0].variant, run.submodels[0].data
    mode, points = find_mode(variant, data)
    spread = spread_around(variant, data, mode, points)
    assert spread.keys() == mode.keys()
    np.testing.assert_array_equal(spread["curve_weights_whitened"], 1.0)

    def along(time_scale):
        return objective(variant)({**mode, "power_time_scale": time_scale}, data, points)[0]

    curvature = float(jax.hessian(along)(mode["power_time_scale"]))
    assert float(spread["power_time_scale"]) == pytest.approx(curvature**-0.5, rel=1e-4)
    assert float(spread["power_time_scale"]) < 0.05
    assert all(np.all(np.asarray(value) <= 1.0) for value in spread.values())
