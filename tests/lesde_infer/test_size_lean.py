"""How curves lean on the slope of step sizes: coordinates that follow it, and a posterior that stays what it is."""

import numpy as np
import pytest
from core_helpers import random_strata

from lesde_infer._jax import jnp
from lesde_infer.mode import at_origin, descend, find_mode
from lesde_infer.padding import pad_intervals
from lesde_infer.size_lean import SizeLean, no_lean, shift_of_weights
from lesde_infer.slope_profile import SITE, WEIGHTS, follow_slope
from lesde_infer.strata_variant import StrataVariant
from lesde_infer.variant import non_centred, site_values, whitened_potential

N, N_WEIGHTS = 64, 18
SHARES = (-0.6, -0.3, 0.3, 0.6)  # of the reach


def quiet_record(mixed):
    """Return intervals of which the quiet ones tell the rate to a thousandth; its lean on b is not known yet."""
    rng = np.random.default_rng(3)
    data, _, _ = random_strata(rng, N, [1], numbers=(0,), feedback=1e-3, mixed=mixed)
    size = np.where(rng.random(N) < 0.7, rng.uniform(-0.95, -0.8, N), rng.uniform(1.0, 3.0, N))
    noise = 0.003 * (1 + size)
    push = np.asarray(data.exposure[0] * data.direction_square[0, :, 0])
    increment = 5.0 * push * (1 + 0.6 * size) + np.abs(push) * noise * rng.normal(size=N)
    return pad_intervals(
        data._replace(
            increment=jnp.asarray(increment[None]),
            increment_square=jnp.asarray(increment[None] ** 2),
            log_length=jnp.asarray(np.log(np.abs(push) * noise)[None]),
            relative_size=jnp.asarray(size[None]),
            lean=no_lean(1 + mixed, 2 + mixed, N_WEIGHTS),
        )
    )


def slope_variant(mixed):
    return StrataVariant("gp", coupled=False, mixed=mixed, sized=True)


def test_the_shift_is_the_polynomial_within_its_reach():
    """a v + b v²/2 + c v³/6 of one slope; beyond the reach it stays where it is."""
    a, b, c = 0.7, -0.4, 1.3
    lean = SizeLean(*(jnp.array([x]) for x in (0.1, 0.5, -1.0, 2.0)), jnp.array([a, b, c]).reshape(3, 1, 1))
    for v, within in ((-1.0, -1.0), (0.0, 0.0), (1.4, 1.4), (5.0, 2.0), (-4.0, -1.0)):
        slope = jnp.array([1.0 - 0.1 * np.sinh(v + 0.5)])
        expected = a * within + b * within**2 / 2 + c * within**3 / 6
        assert float(shift_of_weights(lean, slope)[0, 0]) == pytest.approx(expected, abs=1e-9)


def test_two_slopes_move_weights_together():
    shift = jnp.zeros((7, 1, 1)).at[6].set(2.0)  # the product
    lean = SizeLean(jnp.ones(2), jnp.zeros(2), -jnp.ones(2), jnp.ones(2), shift)
    slope = 1.0 - jnp.sinh(jnp.array([0.3, -0.5]))
    assert float(shift_of_weights(lean, slope)[0, 0]) == pytest.approx(-0.3)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_posterior_is_the_same_whatever_leans(mixed):
    """One point in two systems of coordinates: their potentials differ by the volume of that of b alone."""
    rng = np.random.default_rng(5)
    data, variant = quiet_record(mixed), slope_variant(mixed)
    k = 1 + mixed
    lean = SizeLean(
        jnp.asarray(rng.uniform(0.02, 0.2, k)),
        jnp.asarray(rng.normal(size=k)),
        jnp.full(k, -3.0),
        jnp.full(k, 3.0),
        jnp.asarray(rng.normal(size=data.lean.shift.shape if mixed else (3, 2, N_WEIGHTS))),
    )
    told, points = data._replace(lean=lean), non_centred(variant, data)
    mode = {
        SITE: (1, k),
        WEIGHTS: (2 + mixed, N_WEIGHTS),
        "curve_amplitude": (2 + mixed,),
        "curve_length": (2 + mixed,),
        "degrees_excess": (1, k),
        **({"interval_exponent": (1,)} if mixed else {}),
    }
    one = {name: jnp.asarray(0.3 * rng.normal(size=shape)) for name, shape in mode.items()}
    slope = 1.0 - jnp.sinh(one[SITE])
    v = jnp.arcsinh((1.0 - slope) / lean.stretch)
    other = {**one, SITE: v, WEIGHTS: one[WEIGHTS] - shift_of_weights(lean, slope[0])}
    for name, value in site_values(variant, other, told, points).items():
        np.testing.assert_allclose(value, site_values(variant, one, data, points)[name], rtol=1e-9, atol=1e-9)
    volumes = jnp.log(lean.stretch * jnp.cosh(v)).sum() - jnp.log(jnp.cosh(one[SITE])).sum()
    found = [float(whitened_potential(variant, *at, points)) for at in ((one, data), (other, told))]
    assert found[1] + float(volumes) == pytest.approx(found[0], rel=1e-10)


@pytest.mark.parametrize("mixed", [False, True])
def test_weights_stay_where_they_are_as_the_slope_moves(mixed):
    """Given another b, whitened weights are most probable elsewhere; told how they lean, next to where they were."""
    data, variant = quiet_record(mixed), slope_variant(mixed)
    mode, points = find_mode(variant, data)
    leaning, told = follow_slope(variant, data, mode, points)
    slope = 1.0 - np.sinh(np.asarray(mode[SITE]))
    np.testing.assert_allclose(site_values(variant, leaning, told, points)[SITE], slope, rtol=1e-9)
    lean, moved = told.lean, {"untold": [], "told": []}
    for share in SHARES:
        v = lean.centre + share * (lean.low if share < 0 else lean.high) * np.sign(share)
        for name, start, own in (("untold", mode, data), ("told", leaning, told)):
            held = jnp.arcsinh(lean.stretch * jnp.sinh(v) / own.lean.stretch).reshape(1, -1)
            found = descend(variant, own, points, {**at_origin(start), SITE: held}, 200, held=SITE)
            np.testing.assert_array_equal(found[SITE], held)
            moved[name].append(float(jnp.abs(found[WEIGHTS] - start[WEIGHTS]).max()))
    assert min(moved["untold"]) > 2.0
    assert np.all(np.array(moved["told"]) < 0.5 * np.array(moved["untold"]))


def test_only_strata_whose_sizes_matter_are_followed():
    data, variant = quiet_record(mixed=False), slope_variant(mixed=False)
    with pytest.raises(ValueError, match="does not depend on sizes"):
        follow_slope(variant, data._replace(lean=None), {}, {})
