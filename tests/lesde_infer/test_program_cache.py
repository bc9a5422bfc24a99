"""Compiled programs are kept whole or not at all, and fits go on without where there is no room for them."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax._src.lru_cache import LRUCache

from lesde_infer.program_cache import _whole

PROGRAM = """
import logging, resource, sys
logging.basicConfig(format="%(message)s")
from lesde_infer._jax import jax, jnp
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from collections import Counter
found = Counter()
jax.monitoring.register_event_listener(lambda event, **_: found.update([event]))
for size in (2, 3):
    jax.jit(lambda x: jnp.linalg.slogdet(x @ x.T + jnp.eye(size)))(jnp.ones((size, size)))
print(found["/jax/compilation_cache/cache_hits"])
"""


@pytest.fixture
def compile_in(tmp_path):
    """Compile two programs in a process of its own; return how many were found in the cache, and what was said."""

    def run(*arguments):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True
        )
        return int(done.stdout), done.stderr.strip().splitlines()

    return run


def kept(folder):
    return sorted(path for path in (folder / "lesde" / "jax").iterdir() if path.is_file())


def test_programs_are_kept_for_the_next_process(compile_in, tmp_path):
    assert compile_in() == (0, [])
    assert len(kept(tmp_path)) >= 2
    hits, said = compile_in()
    assert (hits >= 2, said) == (True, [])


def test_a_folder_that_cannot_be_written_is_named_once(compile_in, tmp_path):
    (tmp_path / "lesde").write_text("a file is in the way")
    hits, said = compile_in()
    assert hits == 0
    assert len(said) == 1
    assert "compiled programs are not kept there (" in said[0]
    assert "set XDG_CACHE_HOME" in said[0]


def test_a_full_disk_is_named_once_and_leaves_nothing_behind(compile_in, tmp_path):
    assert compile_in()[1] == []
    largest = max(path.stat().st_size for path in kept(tmp_path))
    for path in kept(tmp_path):
        path.unlink()
    hits, said = compile_in(str(largest // 2))
    assert hits == 0
    assert len(said) == 1
    assert "compiled programs are not kept there for the next time (File too large)" in said[0]
    assert all(path.is_file() for path in (tmp_path / "lesde" / "jax").iterdir())
    assert compile_in()[1] == []  # what was kept until then is sound


@pytest.fixture
def cache(tmp_path):
    return LRUCache(str(tmp_path), max_size=-1)


def test_a_write_that_is_cut_off_leaves_no_program(cache, tmp_path, monkeypatch, caplog):
    def cut(path, data):
        with path.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    put = _whole(LRUCache.put, tmp_path)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(Path, "write_bytes", cut)
        put(cache, "first", b"a program")
        put(cache, "second", b"a program")
    assert [record.getMessage().partition("(")[2] for record in caplog.records] == ["No space left on device)"]
    assert list(tmp_path.iterdir()) == []
    assert cache.get("first") is None
    whole = _whole(LRUCache.put, tmp_path)
    whole(cache, "first", b"a program")
    assert cache.get("first") == b"a program"


def test_folders_of_others_are_written_as_jax_does(cache, tmp_path):
    put = _whole(LRUCache.put, tmp_path / "other")
    put(cache, "first", b"a program")
    assert cache.get("first") == b"a program"
