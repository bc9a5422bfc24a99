"""The one place where JAX is imported, set to double precision, and given a cache of compiled programs.

Every module of ``lesde_infer`` that computes with JAX imports it from here, so that no computation
can run in single precision by accident: log likelihoods here sum 10⁵ terms, and rates span five
orders of magnitude.

Compiling a fit takes longer than running it, so compiled programs are kept in the user's cache folder
(``$XDG_CACHE_HOME/lesde``, by default ``~/.cache/lesde``), where JAX finds them by content. A folder set for
JAX by the user stays in force; where the folder cannot be written a warning says so, and programs are compiled anew.
"""

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp

from lesde_infer.cache_folder import cache_folder
from lesde_infer.program_cache import write_whole_programs

_logger = logging.getLogger(__name__)
jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]  # here and below: JAX leaves it untyped
# Programs run in the thread that calls them. Fits have threads of their own, one a core; programs that wait in the pool
# for parts of their own to be done there may fill it and wait for ever (github.com/jax-ml/jax/issues/25861).
jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]


def _keep_compiled_programs() -> None:
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder, reason = cache_folder("jax"), "not writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = str(error.strerror)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        if parent_process() is None:  # who started others has said so
            _logger.warning(
                "%s: compiled programs are not kept there (%s), so that every command compiles for a minute; "
                "set XDG_CACHE_HOME to a folder that can be written",
                folder,
                reason,
            )
        return
    write_whole_programs(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # type: ignore[no-untyped-call]


_keep_compiled_programs()

MAPPING_LIMIT, MAPPINGS = Path("/proc/sys/vm/max_map_count"), Path("/proc/self/maps")
MOST_MAPPED = 0.5  # of the memory mappings that the system grants a process


def make_room() -> None:
    """Forget compiled programs where the process runs out of memory mappings.

    Each program takes hundreds of mappings, and Linux grants a process 65,530: after some thirty fits of different
    shapes the next program would crash the process. Those that are wanted again are read from the cache on disk. Where
    the system does not tell its limits nothing is done.
    """
    try:
        limit = int(MAPPING_LIMIT.read_text())
        with MAPPINGS.open("rb") as mappings:
            mapped = sum(1 for _ in mappings)
    except (OSError, ValueError):
        return
    if mapped > MOST_MAPPED * limit:
        jax.clear_caches()  # type: ignore[no-untyped-call]


Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def jit_briefly_used(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Compile a function that is called a few times, and whose compilation would outlast its calls.

    Without optimisation and fused loops programs take a fifth of the time to compile (3 s in place of 14 for what
    starts the chains of a submodel), and four times as long to run.
    """
    return cast("Callable[Arguments, Returned]", jax.jit(function, compiler_options=_known_options()))


QUICKLY: dict[str, int | bool] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Options of XLA, which change from version to version."""


@lru_cache(maxsize=1)
def _known_options() -> dict[str, int | bool] | None:
    """Return the options for quick compilation, or none where this version of XLA does not know them."""
    try:
        jax.jit(lambda x: x + 1.0, compiler_options=QUICKLY)(0.0)
    except Exception:  # whatever it raises, compilation goes on without
        return None
    return QUICKLY


__all__ = ["jax", "jit_briefly_used", "jnp", "make_room"]
