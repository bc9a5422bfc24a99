"""Time sampling for rising numbers of samples, with equal records, classes and features.

Simulates runs of K = p = 3 under impact R that differ in samples alone, and samples the model of their contrasts with
constant curves. After warm-up the runs take turns: each gets the same number of further draws, and this is repeated, so
that a busy machine slows all alike. Prints JSON: seconds of the statistics pass, and of sampling the median and minimum
over repeats of the wall time and of the time per gradient and chain (chains advance in step, so this includes waiting
for the longest trajectory), with ratios to the first run.

    python benchmarks/sample_cost.py [--samples 300 3000] [--intervals 60] [--draws 100] [--repeats 3] [--json FILE]
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lesde_infer.assembly import assemble
from lesde_infer.sampling import CHUNK
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics
from lesde_infer.submodel_sampler import SubmodelSampler

K, EVERY, CHAINS = 3, 50, 2


def prepare(n_samples: int, n_intervals: int) -> tuple[SubmodelSampler, float]:
    """Return a warmed-up sampler of contrasts, and the seconds the statistics of its run took."""
    with (
        tempfile.TemporaryDirectory() as folder,
        simulate(
            Path(folder) / "run.h5",
            n_classes=K,
            samples_per_class=n_samples // K,
            steps=np.arange(0, (n_intervals + 1) * EVERY, EVERY),
            alpha=2e-3,
            beta=-5e-4,
            kappa=1e-4,
            global_scale=1e-3,
            class_scale=5e-4,
            individual_scale=1e-3,
            impact="R",
            seed=1,
        ) as recording,
    ):
        start = time.perf_counter()
        statistics = compute_statistics(recording, "logits", "R")
        seconds = time.perf_counter() - start
    sampler = SubmodelSampler(assemble(statistics, "constant")[0], jax.random.key(0), CHAINS)
    sampler.run_until(0, lambda _: None)
    return sampler, seconds


def timed_draws(sampler: SubmodelSampler, n_before: int, n_draws: int) -> tuple[float, float]:
    """Draw more; return the wall seconds, and the seconds per gradient and chain."""
    start = time.perf_counter()
    sampler.run_until(n_before + n_draws, lambda _: None)
    wall = time.perf_counter() - start
    return wall, wall / float(sampler.draws().statistics["n_steps"][:, n_before:].sum())


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, nargs="+", default=[300, 3000, 30000])
    parser.add_argument("--intervals", type=int, default=60)
    parser.add_argument("--draws", type=int, default=100, help="draws of each chain in each repeat; a multiple of 50")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    if arguments.draws < CHUNK or arguments.draws % CHUNK:
        parser.error(f"--draws is {arguments.draws}; give a multiple of {CHUNK}")
    prepared = {n: prepare(n, arguments.intervals) for n in arguments.samples}
    times: dict[int, list[tuple[float, float]]] = {n: [] for n in prepared}
    for repeat in range(arguments.repeats):
        for n, (sampler, _) in prepared.items():
            times[n].append(timed_draws(sampler, repeat * arguments.draws, arguments.draws))
    rows: list[dict[str, Any]] = []
    for n, (_, statistics_seconds) in prepared.items():
        row: dict[str, Any] = {"samples": n, "statistics_seconds": statistics_seconds}
        for place, name in enumerate(("wall_seconds", "seconds_per_gradient_chain")):
            for word, reduce in (("median", np.median), ("minimum", np.min)):
                row[f"{name}_{word}"] = float(reduce([pair[place] for pair in times[n]]))
                row[f"{name}_{word}_ratio"] = row[f"{name}_{word}"] / (rows or [row])[0][f"{name}_{word}"]
        rows.append(row)
    result = {"intervals": arguments.intervals, "cores": os.cpu_count(), "load_average": os.getloadavg(), "rows": rows}
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
