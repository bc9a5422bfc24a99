"""Compiled programs are forgotten before the process runs out of memory mappings, and not sooner."""

import pytest

from lesde_infer import _jax
from lesde_infer._jax import jax, jnp, make_room


@pytest.fixture
def forgotten(monkeypatch):
    """A list that grows each time programs are forgotten."""
    calls = []
    monkeypatch.setattr(jax, "clear_caches", lambda: calls.append(True))
    return calls


@pytest.mark.parametrize(("limit", "expected"), [(100, 1), (10**9, 0)])
def test_they_are_forgotten_where_mappings_are_scarce(tmp_path, monkeypatch, forgotten, limit, expected):
    granted, taken = tmp_path / "limit", tmp_path / "maps"
    granted.write_text(f"{limit}\n")
    taken.write_text("00400000-00452000 r-xp\n" * 51)
    monkeypatch.setattr(_jax, "MAPPING_LIMIT", granted)
    monkeypatch.setattr(_jax, "MAPPINGS", taken)
    make_room()
    assert len(forgotten) == expected


def test_where_the_system_tells_no_limit_nothing_happens(tmp_path, monkeypatch, forgotten):
    monkeypatch.setattr(_jax, "MAPPING_LIMIT", tmp_path / "nothing")
    make_room()
    assert not forgotten


def test_programs_work_after_they_were_forgotten():
    program = jax.jit(lambda x: jnp.sin(x) + 1.0)
    before = program(2.0)
    jax.clear_caches()
    assert program(2.0) == before


@pytest.mark.slow
def test_fits_of_many_shapes_stay_within_bounds(tmp_path, monkeypatch):
    """Ten shapes, some 2,000 mappings each, where a twentieth of what is granted is the most before one begins."""
    from core_helpers import make_run

    from lesde_infer.assembly import assemble
    from lesde_infer.concurrent_sampling import ConcurrentSampler
    from lesde_infer.statistics import compute_statistics

    monkeypatch.setattr(_jax, "MOST_MAPPED", 0.05)
    mapped = []
    for number in range(10):
        with make_run(3, 4, 20 + number).write(tmp_path / f"{number}.h5") as recording:
            submodels = assemble(compute_statistics(recording, "out", "R"), "constant")[:1]
        sampler = ConcurrentSampler(submodels, seed=0, n_chains=2)
        sampler.run_until(50)
        assert len(sampler.draws()) == 1
        mapped.append(len(_jax.MAPPINGS.read_bytes().splitlines()))
    assert max(mapped) < 12_000
