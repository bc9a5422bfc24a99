"""Draw from a model with NumPyro's NUTS in a bounded time: the sampler of every contestant but lesde.

4 chains side by side, 750 draws of each and trees up to depth 8, as in lesde; a dense mass matrix among the parameters;
and NumPyro's own target acceptance of 0.8, which is the quicker one. Since chains start near the posterior and move in
units of its width (`plain_models.py`), 100 iterations of warm-up are enough; lesde takes 300. Iterations are done in
short blocks of one compiled program, between which the clock is looked at.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
from numpyro.infer import NUTS, init_to_value

CHAINS, WARMUP, DRAWS, BLOCK, MAXIMAL_TREE_DEPTH = 4, 100, 750, 5, 8

numpyro.enable_x64()


class Clock:
    """Wall and processor seconds of this process since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, name: str) -> dict[str, float]:
        """Return both, named."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {f"{name}_seconds": wall, f"{name}_cpu_seconds": cpu}


class Task(NamedTuple):
    """A model, its arrays, the parameters whose draws are kept, where chains start, and units of these parameters."""

    model: Callable[..., None]
    arguments: tuple[Any, ...]
    parameters: Sequence[str]
    start: dict[str, Any]
    units: dict[str, float]


def sample(task: Task, seconds: float, clock: Clock) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Sample until all draws are there or the seconds of sampling are over.

    Parameters
    ----------
    task : Task
        What is sampled. The kept parameters are real numbers, sampled from priors on the whole line, and have a dense
        mass matrix among one another and the ``scale_…`` parameters.
    seconds : float
        Processor seconds given to warm-up and draws together, compilation apart.
    clock : Clock
        Started before the recording was read.

    Returns
    -------
    figures : dict
        Seconds, iterations and gradients; ``finished`` if all draws were done.
    draws : dict of arrays, shape (chain, draw)
        Draws of the parameters after warm-up, as many as there were time for.
    """
    dense = [tuple(name for name in task.start if np.ndim(task.start[name]) == 0)]
    kernel = NUTS(
        task.model,
        dense_mass=dense,
        max_tree_depth=MAXIMAL_TREE_DEPTH,
        init_strategy=init_to_value(values=task.start),
    )
    keys = jax.random.split(jax.random.PRNGKey(0), CHAINS)
    state = kernel.init(keys, WARMUP, None, task.arguments, {})

    def advance(state: Any, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        def body(state: Any, _: None) -> tuple[Any, Any]:
            state = kernel.sample(state, arguments, {})
            return state, ({name: state.z[name] for name in task.parameters}, state.num_steps, state.diverging)

        return jax.lax.scan(body, state, length=BLOCK)

    program = jax.jit(advance).lower(state, task.arguments).compile()
    figures: dict[str, Any] = clock.read("until_compiled")
    sampling, blocks, warm = Clock(), [], None
    while len(blocks) * BLOCK < WARMUP + DRAWS and sampling.read("now")["now_cpu_seconds"] < seconds:
        state, block = program(state, task.arguments)
        blocks.append(jax.tree.map(np.asarray, block))
        if len(blocks) * BLOCK == WARMUP:
            warm = sampling.read("warmup")
    figures |= (warm or {}) | sampling.read("sampling") | clock.read("whole")
    n_warmup = WARMUP // BLOCK
    iterations = len(blocks) * BLOCK
    figures |= {
        "iterations": iterations,
        "chains": CHAINS,
        "finished": iterations == WARMUP + DRAWS,
        "gradients": int(sum(steps.sum() for _, steps, _ in blocks)),
        "gradients_per_iteration": float(np.mean([steps.mean() for _, steps, _ in blocks[n_warmup:] or blocks])),
        "divergences": int(sum(diverging.sum() for _, _, diverging in blocks[n_warmup:])),
    }
    kept = {name: [draws[name] for draws, _, _ in blocks[n_warmup:]] for name in task.parameters}
    draws = {name: np.concatenate(parts).T if parts else np.zeros((CHAINS, 0)) for name, parts in kept.items()}
    return figures, {name: values * task.units[name] for name, values in draws.items()}
