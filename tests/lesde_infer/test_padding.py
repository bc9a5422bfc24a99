"""Intervals that observe nothing change no density and no draw's values, and are dropped again."""

from functools import partial

import numpy as np
import pytest
from core_helpers import random_strata
from numpyro.infer.util import log_density

from lesde_infer import _jax
from lesde_infer._jax import jax, jit_briefly_used, jnp
from lesde_infer.curves import n_weights
from lesde_infer.model import Parameters, strata_model
from lesde_infer.padding import drop_padding, pad_intervals, padded_length
from lesde_infer.strata_variant import StrataVariant


def test_lengths_are_few_and_little_longer():
    lengths = [padded_length(n) for n in range(1, 3000)]
    assert all(length >= n for n, length in enumerate(lengths, 1))
    assert max(length / n for n, length in enumerate(lengths, 1) if n >= 16) <= 1.28
    assert len({length for length in lengths if length >= 16}) <= 24
    assert [padded_length(n) for n in (4, 15, 16, 17, 100, 101, 200, 201)] == [4, 15, 16, 20, 100, 128, 200, 256]


@pytest.mark.parametrize("curve", ["gp", "power"])
@pytest.mark.parametrize(("coupled", "mixed"), [(False, False), (True, False), (False, True)])
def test_densities_do_not_change(curve, coupled, mixed):
    """Neither the log posterior, nor its gradient, nor the information that whitens."""
    rng = np.random.default_rng(0)
    data, *_ = random_strata(rng, 19, (6, 3), 2)
    if mixed:
        data = data._replace(n_steps=jnp.where(jnp.arange(19) % 2 == 0, 1.0, 9.0), relative_length=jnp.arange(19) % 2.0)
    padded = pad_intervals(data)
    assert padded.lengths.shape == (20,)
    assert padded.feedback.shape[1] == padded.design.basis.shape[0] == 20
    variant = StrataVariant(curve, coupled, mixed)
    n_curves = len(data.prior.level_mean)
    sites = {
        "curve_weights": jnp.asarray(0.3 * rng.normal(size=(n_curves, n_weights(curve)))),
        "degrees_excess": jnp.asarray(rng.uniform(1.0, 3.0, size=(2, 1 + mixed))),
    }
    if curve == "gp":
        sites |= {
            name: jnp.asarray(rng.uniform(0.3, 1.0, size=n_curves)) for name in ("curve_amplitude", "curve_length")
        }
    else:
        sites["power_time_scale"] = jnp.asarray(0.02)
    if mixed:
        sites["interval_exponent"] = jnp.asarray(0.1 * rng.normal(size=2))
    model = partial(strata_model, curve=curve, coupled=coupled, mixed=mixed)
    evaluate = jit_briefly_used(jax.value_and_grad(lambda sites, data: log_density(model, (data,), {}, sites)[0]))
    information, parameters = jit_briefly_used(variant.information), jit_briefly_used(variant.parameters)
    for found, expected in zip(*(jax.tree.leaves(evaluate(sites, own)) for own in (padded, data)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    found, expected = (information(sites, own)["curve_weights"] for own in (padded, data))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * float(jnp.abs(expected).max()))
    found, expected = (parameters(sites, own) for own in (padded, data))
    for own, reference in zip(drop_padding(found, 19), expected, strict=True):
        np.testing.assert_allclose(own, reference, rtol=1e-12)


def test_draws_lose_what_was_added_and_nothing_else():
    curves = np.arange(2 * 3 * 1 * 20.0).reshape(2, 3, 1, 20)
    draws = Parameters(curves, curves, curves, np.ones((2, 3, 1, 2)), np.ones((2, 3, 1)), np.ones((2, 3, 1, 2)))
    kept = drop_padding(draws, 18)
    np.testing.assert_array_equal(kept.location, curves[..., :18])
    assert kept.degrees.shape == (2, 3, 1, 2)
    assert kept.interval_exponent.shape == (2, 3, 1)


def test_programs_compile_where_options_for_that_are_unknown(monkeypatch):
    monkeypatch.setattr(_jax, "QUICKLY", {"xla_no_such_option": 1})
    _jax._known_options.cache_clear()
    try:
        assert float(_jax.jit_briefly_used(lambda x: 2.0 * x)(3.0)) == 6.0
        assert _jax._known_options() is None
    finally:
        monkeypatch.undo()
        _jax._known_options.cache_clear()
    assert float(_jax.jit_briefly_used(lambda x: 2.0 * x)(3.0)) == 6.0
    assert _jax._known_options() == _jax.QUICKLY
