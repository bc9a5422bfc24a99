"""Programs that were kept give what those traced anew give, and are taken for nothing else."""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from core_helpers import random_strata

from lesde_infer import kept_traces
from lesde_infer._jax import jax, jnp
from lesde_infer.kept_traces import kept_trace
from lesde_infer.mode import _start
from lesde_infer.sampling import Chains, _kernel, _of_draws
from lesde_infer.strata_variant import StrataVariant
from lesde_infer.variant import non_centred
from lesde_infer.whitening import WhiteningPoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return where programs are kept, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lesde" / "traces"


@pytest.fixture
def traced(folder):
    """Return a function that makes a program anew, as another process would, and the list of those traced."""
    found = []

    def make(*depends_on, name="squares", scale=2.0):
        def squares(point, *, add=None):
            found.append(name)
            total = scale * point.information**2
            return {"first": total, "second": WhiteningPoint(total + 1.0, None if add is None else total + add)}

        return jax.jit(kept_trace(squares, name, *depends_on))

    make.found = found
    return make


POINT = WhiteningPoint(jnp.arange(3.0), jnp.arange(2))


def test_what_is_kept_gives_the_same_in_the_same_structure(traced, folder):
    expected = traced(1)(POINT, add=jnp.ones(3))
    again = traced(1)(POINT, add=jnp.ones(3))
    assert traced.found == ["squares"]
    assert len(list(folder.iterdir())) == 1
    assert jax.tree.structure(again) == jax.tree.structure(expected)
    for own, reference in zip(jax.tree.leaves(again), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(own, reference)
    np.testing.assert_array_equal(again["second"].natural, 2.0 * np.arange(3.0) ** 2 + 1.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"depends_on": ("gp",)}, {"depends_on": ("power",)}),
        ({"depends_on": (1,)}, {"depends_on": (1.0,)}),
        ({"depends_on": (("a", "b"), "c")}, {"depends_on": ("a", ("b", "c"))}),
        (
            {"depends_on": (StrataVariant("gp", False, True),)},
            {"depends_on": (StrataVariant("gp", False, True, sized=True),)},
        ),
        ({"name": "squares"}, {"name": "cubes"}),
        ({}, {"point": POINT._replace(natural=jnp.arange(3))}),
        ({}, {"point": POINT._replace(natural=jnp.arange(2.0))}),
        ({}, {"point": POINT._replace(natural=(jnp.arange(2),))}),
    ],
)
def test_another_program_is_not_taken_for_it(traced, first, second):
    for own in (first, second):
        traced(*own.get("depends_on", ()), name=own.get("name", "squares"))(own.get("point", POINT))
    assert len(traced.found) == 2


def test_settings_of_jax_and_other_sources_tell_programs_apart(traced, monkeypatch):
    traced()(POINT)
    with jax.numpy_rank_promotion("raise"):
        traced()(POINT)
    assert len(traced.found) == 2
    with jax.log_compiles(True):  # changes no program
        traced()(POINT)
    assert len(traced.found) == 2
    monkeypatch.setattr(kept_traces, "_sources", lambda: ("another",))
    traced()(POINT)
    assert len(traced.found) == 3


def test_a_change_of_any_module_is_a_change_of_the_sources(tmp_path, monkeypatch):
    def sources():
        kept_traces._sources.cache_clear()
        return kept_traces._sources()

    monkeypatch.setattr(kept_traces, "PACKAGE", tmp_path)
    (tmp_path / "model.py").write_text("LEAST = 1.0\n")
    before = sources()
    assert sources() == before
    (tmp_path / "model.py").write_text("LEAST = 2.0\n")
    changed = sources()
    (tmp_path / "noise.py").write_text("")
    assert len({before, changed, sources()}) == 3
    kept_traces._sources.cache_clear()


@dataclass(frozen=True)
class Foreign:
    """A data class that another package may change without notice."""

    number: int = 1


@pytest.mark.parametrize("value", [Foreign(), len, frozenset({1}), StrataVariant(len, False, False)])
def test_what_cannot_be_written_down_is_traced_anew(traced, folder, value):
    for _ in range(2):
        np.testing.assert_array_equal(traced(value)(POINT)["first"], 2.0 * np.arange(3.0) ** 2)
    assert len(traced.found) == 2
    assert not folder.exists()


@pytest.fixture
def turned_off():
    """Return a context in which JAX keeps no programs."""

    @contextmanager
    def off():
        jax.config.update("jax_enable_compilation_cache", False)
        try:
            yield
        finally:
            jax.config.update("jax_enable_compilation_cache", True)

    return off


def test_nothing_is_kept_where_jax_keeps_nothing(traced, folder, turned_off):
    with turned_off():
        traced()(POINT)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_file_is_replaced(traced, folder, damage):
    expected = traced()(POINT)["first"]
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:-7], "flipped": flipped, "empty": b"", "foreign": b"a" * 100}[damage])
    np.testing.assert_array_equal(traced()(POINT)["first"], expected)
    assert len(traced.found) == 2
    np.testing.assert_array_equal(traced()(POINT)["first"], expected)
    assert len(traced.found) == 2


def test_programs_run_where_nothing_can_be_written(traced, folder):
    folder.parent.mkdir()
    folder.write_text("a file is in the way")
    np.testing.assert_array_equal(traced()(POINT)["first"], 2.0 * np.arange(3.0) ** 2)
    assert folder.read_text() == "a file is in the way"


def test_a_write_that_is_cut_off_leaves_nothing(traced, folder, monkeypatch):
    def cut(path, data):
        with path.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", cut)
        np.testing.assert_array_equal(traced()(POINT)["first"], 2.0 * np.arange(3.0) ** 2)
    assert list(folder.iterdir()) == []


def test_what_jax_cannot_export_runs_all_the_same(folder):
    def asks_python(x):
        return jax.pure_callback(lambda x: np.asarray(x) + 1.0, jax.ShapeDtypeStruct((), x.dtype), x)

    assert float(jax.jit(kept_trace(asks_python, "asks Python"))(jnp.ones(()))) == 2.0
    assert not folder.exists()


@pytest.mark.parametrize("lost", [None, "start of chains", "chains"])
def test_chains_are_the_same_whether_their_programs_were_kept_or_not(folder, turned_off, monkeypatch, lost):
    """Whitening, warm-up, draws and their likelihoods; also where one program was kept and another is traced."""
    data, *_ = random_strata(np.random.default_rng(0), 12, (6,), 1)
    variant, keys, key_of = StrataVariant("constant", False, False), {}, kept_traces._key
    monkeypatch.setattr(kept_traces, "_key", lambda name, *own: keys.setdefault(name, key_of(name, *own)))
    points = non_centred(variant, data)
    mode = _start(variant)(data, points)

    def run():
        _kernel.cache_clear()
        _of_draws.cache_clear()
        spread = {name: jnp.full(value.shape, 0.1) for name, value in mode.items()}
        options = {"key": jax.random.key(1), "n_chains": 2, "n_warmup": 50, "target_acceptance": 0.8}
        chains = Chains(variant, data, mode, points, spread, **options)
        chains.advance()
        chains.advance()
        return chains.draws()

    if lost is None:
        with turned_off():
            first = run()
        assert not (folder / f"{keys['chains']}.program").exists()
        run()
    else:
        first = run()
        (folder / f"{keys[lost]}.program").unlink()
    second = run()
    assert {path.stem for path in folder.iterdir()} >= {keys["chains"], keys["draws"], keys["start of chains"]}
    for found, expected in zip(jax.tree.leaves(vars(second)), jax.tree.leaves(vars(first)), strict=True):
        np.testing.assert_array_equal(found, expected)


PROGRAM = """
from lesde_infer._jax import jax, jnp
from lesde_infer.kept_traces import kept_trace

def doubled(x):
    print("traced")
    return 2.0 * x

print(float(jax.jit(kept_trace(doubled, "doubled"))(jnp.ones(()))))
"""


def test_another_process_does_not_trace_it(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [done.stdout.split() for done in said] == [["traced", "2.0"], ["2.0"]]
