"""How curves lean on the slope of step sizes: closed forms, and what it is for."""

import numpy as np
import pytest
from core_helpers import random_strata

from lesde_infer._jax import jax, jnp
from lesde_infer.curves import weight_columns
from lesde_infer.mode import find_mode
from lesde_infer.size_lean import lean_of_weights, size_lean
from lesde_infer.strata_variant import StrataVariant
from lesde_infer.variant import site_values

N = 60
SLOPES = [(0.5, 0.5), (0.1, 0.8), (0.9, 0.3), (-0.4, 0.95)]


def level_lean(size, length, rate, *, reference=1e-6, noise=1.0, columns=None):
    """Return the lean of intervals that move as ``rate`` says, b being 1/2."""
    increment = rate * (1 + 0.5 * size)
    columns = np.ones((N, 1)) if columns is None else columns
    return size_lean(np.linspace(-1, 1, N), columns, size, length, np.ones(N), noise * np.ones(N), increment, reference)


@pytest.mark.parametrize("slope", SLOPES)
def test_a_rate_moves_against_what_its_intervals_see_of_it(slope):
    """All intervals long and of one size: the rate times 1 + b q stays, and short ones see as much of it as before."""
    for q in (-0.9, -0.5, 1.0):
        lean = level_lean(np.full(N, q), np.ones(N), 2.0)
        found = lean_of_weights(lean, jnp.asarray(slope))
        assert float(found[0, 0]) == pytest.approx(np.log((1 + 0.5 * q) / (1 + slope[1] * q)), abs=0.02)


@pytest.mark.parametrize("slope", SLOPES)
def test_attenuation_moves_by_what_short_intervals_see_besides(slope):
    """Drift of short intervals is the seen rate times e^−ψ times 1 + b q: it stays when ψ moves by the difference."""
    length = np.arange(N) % 2.0
    size = np.where(length > 0, -0.8, 0.7)
    found = lean_of_weights(level_lean(size, length, -3.0), jnp.asarray(slope))
    long, short = (np.log((1 + 0.5 * q) / (1 + b * q)) for q, b in ((-0.8, slope[1]), (0.7, slope[0])))
    np.testing.assert_allclose(found[:, 0], [long, long - short], atol=0.02)


def test_quiet_intervals_decide_where_they_tell_most():
    """Of intervals of two sizes, those with a thousandth of the noise."""
    size = np.where(np.arange(N) % 3 == 0, -0.9, 1.5)
    lean = level_lean(size, np.ones(N), 1.0, noise=np.where(size < 0, 1e-3, 1.0))
    found = float(lean_of_weights(lean, jnp.array([0.5, 0.8]))[0, 0])
    assert found == pytest.approx(np.log((1 - 0.45) / (1 - 0.72)), abs=0.02)


def test_a_rate_below_its_resolution_does_not_lean():
    lean = level_lean(np.full(N, -0.9), np.ones(N), 1e-9)
    np.testing.assert_allclose(lean_of_weights(lean, jnp.array([0.9, 0.9])), 0.0, atol=0.01)


def test_outliers_do_not_decide():
    """A tenth of the intervals move a hundred times as far as the others, against what their size says."""
    rng, n = np.random.default_rng(0), 4 * N
    size, outlier = rng.uniform(-0.9, 1.0, n), np.arange(n) % 10 == 0
    usual = 1 + 0.5 * size + 0.05 * rng.normal(size=n)
    arguments = np.linspace(-1, 1, n), np.ones((n, 1)), size, np.ones(n), np.ones(n), np.ones(n)
    slope = jnp.array([0.9, 0.9])
    clean, found = (
        float(lean_of_weights(size_lean(*arguments, increment, 1e-6), slope)[0, 0])
        for increment in (usual, np.where(outlier, -100.0 * (1 - 0.5 * size), usual))
    )
    assert abs(clean) > 0.08
    assert found == pytest.approx(clean, abs=0.05)


@pytest.mark.parametrize("slope", SLOPES)
def test_nothing_told_leans_on_nothing(slope):
    """No interval tells anything: no division by zero, nothing infinite, in derivatives as well."""
    zero = np.zeros(N)
    lean = size_lean(np.linspace(-1, 1, N), np.ones((N, 1)), zero, zero, zero, np.ones(N), zero, 1.0)
    value, slopes = jax.value_and_grad(lambda b: lean_of_weights(lean, b).sum())(jnp.asarray(slope))
    assert np.isfinite(value)
    assert np.isfinite(slopes).all()


def test_weights_hardly_move_with_the_slope_of_sizes():
    """Of quiet intervals that tell the rate to a thousandth: given b, its weights stay where whitening expects them."""
    rng = np.random.default_rng(3)
    data, _, _ = random_strata(rng, N, [1], numbers=(0,), feedback=1e-3)
    size = np.where(rng.random(N) < 0.7, rng.uniform(-0.95, -0.8, N), rng.uniform(1.0, 3.0, N))
    noise = 0.003 * (1 + size)
    push = np.asarray(data.exposure[0] * data.direction_square[0, :, 0])
    increment = 5.0 * push * (1 + 0.6 * size) + np.abs(push) * noise * rng.normal(size=N)
    data = data._replace(
        increment=jnp.asarray(increment[None]),
        increment_square=jnp.asarray(increment[None] ** 2),
        log_length=jnp.asarray(np.log(np.abs(push) * noise)[None]),
        relative_size=jnp.asarray(size[None]),
    )
    lean = size_lean(
        np.asarray(data.design.trend[:, 1]),
        np.asarray(weight_columns("gp", data.design)),
        size,
        np.ones(N),
        push,
        np.abs(push) * noise,
        increment,
        float(data.reference[0]),
    )
    variant = StrataVariant("gp", coupled=False, mixed=False, sized=True)
    moved = {}
    for name, told in (("told", data._replace(lean=lean)), ("untold", data)):
        mode, points = find_mode(variant, told)
        kept = site_values(variant, mode, told, points)
        drift = []
        for change in (-0.1, 0.1):
            position = {**mode, "size_slope": mode["size_slope"] + change}
            values = site_values(variant, position, told, points)
            location = variant.parameters(values, told).location[0]
            slope = float(values["size_slope"][0, 0])
            drift.append(np.asarray(location * (1 + slope * size))[size < 0])
        at_mode = np.asarray(variant.parameters(kept, told).location[0] * (1 + float(kept["size_slope"][0, 0]) * size))
        moved[name] = np.abs(np.log(np.array(drift) / at_mode[size < 0])).mean()
    assert moved["told"] < 0.2 * moved["untold"]
