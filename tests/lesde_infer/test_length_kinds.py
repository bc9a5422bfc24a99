"""What depends on the lengths of intervals alone, computed once a length: which there are, and an equal density."""

import numpy as np
import pytest
from core_helpers import random_strata
from numpyro.infer.util import log_density

from lesde_infer._jax import jax, jnp
from lesde_infer.length_kinds import SIZES, length_kinds
from lesde_infer.padding import pad_intervals
from lesde_infer.strata_variant import StrataVariant

N = 30


@pytest.mark.parametrize("n_lengths", [1, 2, 3, 5, 12, 16])
def test_every_interval_finds_its_length(n_lengths):
    lengths = np.random.default_rng(n_lengths).permutation(np.arange(40) % n_lengths) / max(n_lengths - 1, 1)
    kinds = length_kinds(lengths)
    assert len(kinds.relative_length) in SIZES
    np.testing.assert_array_equal(kinds.members @ kinds.relative_length, lengths)
    np.testing.assert_array_equal(kinds.members.sum(axis=1), 1.0)


def test_of_too_many_lengths_there_are_no_kinds():
    assert length_kinds(np.linspace(0.0, 1.0, SIZES[-1] + 1)) is None


@pytest.mark.parametrize("mixed", [False, True])
def test_density_and_gradient_do_not_change(mixed):
    rng = np.random.default_rng(1)
    data, _, _ = random_strata(rng, N, (3, 1), 2, numbers=[1], mixed=mixed)
    values = {
        "curve_amplitude": rng.uniform(0.2, 1.0, 4 + 2 * mixed),
        "curve_length": rng.uniform(0.3, 1.0, 4 + 2 * mixed),
        "curve_weights": 0.3 * rng.normal(size=(4 + 2 * mixed, 18)),
        "degrees_excess": rng.uniform(0.5, 8.0, (2, 1 + mixed)),
        **({"interval_exponent": 0.3 * rng.normal(size=2)} if mixed else {}),
    }
    values = {name: jnp.asarray(value) for name, value in values.items()}
    lengths = np.asarray(data.relative_length)
    if mixed:  # few lengths
        lengths = np.round(4 * lengths) / 4
    model = StrataVariant("gp", coupled=False, mixed=mixed).model
    found = []
    for kinds in (None, length_kinds(lengths)):
        own = pad_intervals(data._replace(relative_length=jnp.asarray(lengths), kinds=kinds))
        assert kinds is None or len(own.kinds.members) == len(own.lengths)
        found.append(jax.value_and_grad(lambda at, own=own: log_density(model, (own,), {}, at)[0])(values))
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-12)
    for name, gradient in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], gradient, rtol=1e-9, atol=1e-9)
