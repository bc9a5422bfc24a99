"""Ask what sampling costs for rising numbers of samples, features, classes and records, once statistics exist.

Along each axis runs are simulated that differ in one number alone, and the model of their contrasts (constant curves)
is sampled: under impact R, but for the axis of features, whose number is free under I only. `classes-matrix` has a
matrix of elasticity in place of α and β. The axis of records divides the same number of steps.

After warm-up the runs of an axis take turns: each gets the same number of further draws, and this is repeated, so that
a busy machine slows all alike. For each run: seconds of the pass that makes statistics, and of sampling the median over
repeats of wall and processor seconds a draw and of processor seconds a gradient and chain (chains advance in step, so
this includes waiting for the longest trajectory), with ratios to the first run of the axis.

    python benchmarks/cost.py [--axes samples features classes classes-matrix records] [--samples 300 3000 …]
        [--features …] [--classes …] [--records …] [--draws 500] [--repeats 5] [--short] [--json FILE]

Prints a table. `--short` takes the smaller numbers of each axis, and leaves out matrices. 300,000 samples take
gigabytes of memory.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lesde_infer.assembly import assemble
from lesde_infer.impacts import Elasticity, Impact
from lesde_infer.sampling import CHUNK
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics
from lesde_infer.submodel_sampler import SubmodelSampler

CHAINS, DURATION = 2, 5000
AXES: dict[str, tuple[int, ...]] = {
    "samples": (300, 3000, 30_000, 300_000),
    "features": (3, 48, 512, 2048),
    "classes": (2, 5, 10, 20),
    "classes-matrix": (2, 5, 10, 20),
    "records": (50, 500, 5000),
}
SHORT: dict[str, tuple[int, ...]] = {
    "samples": (300, 3000),
    "features": (3, 512),
    "classes": (2, 10),
    "records": (50, 500),
}


@dataclass(frozen=True)
class Size:
    """Size of a simulated run."""

    samples: int = 300
    features: int = 3
    classes: int = 3
    records: int = 61

    @classmethod
    def along(cls, axis: str, number: int) -> "Size":
        """Return the size at a place on an axis; where classes vary there is a logit of each, and samples of each."""
        if axis.startswith("classes"):
            return cls(samples=20 * number, features=number, classes=number)
        if axis == "features":
            return cls(samples=60, features=number)
        return cls(**{axis: number})


def prepare(size: Size, impact: Impact, elasticity: Elasticity) -> tuple[SubmodelSampler, float]:
    """Return a warmed-up sampler of contrasts, and the seconds the statistics of its run took."""
    per_class = size.samples // size.classes
    generator = np.random.default_rng(1)
    # Of equal norm whatever the number of features: the drift stands out from the noise along it as far in all runs.
    scale = 0.5 / np.sqrt(size.features)
    first = scale * generator.normal(size=(per_class * size.classes, size.features))
    with (
        tempfile.TemporaryDirectory() as folder,
        simulate(
            Path(folder) / "run.h5",
            n_classes=size.classes,
            samples_per_class=per_class,
            steps=np.unique(np.linspace(0, DURATION, size.records).round().astype(int)),
            alpha=2e-3,
            beta=-5e-4,
            kappa=1e-4,
            global_scale=1e-3,
            class_scale=5e-4,
            individual_scale=1e-3,
            impact=impact,
            first_features=first,
            seed=1,
        ) as recording,
    ):
        start = time.perf_counter()
        statistics = compute_statistics(recording, recording.choose_layer(None), impact)
        seconds = time.perf_counter() - start
    sampler = SubmodelSampler(assemble(statistics, "constant", elasticity)[0], jax.random.key(0), CHAINS)
    sampler.run_until(0, lambda _: None)
    return sampler, seconds


def timed_draws(sampler: SubmodelSampler, n_before: int, n_draws: int) -> tuple[float, float, float]:
    """Draw more; return wall and processor seconds a draw, and processor seconds a gradient and chain."""
    wall, cpu = time.perf_counter(), time.process_time()
    sampler.run_until(n_before + n_draws, lambda _: None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gradients = float(sampler.draws().statistics["n_steps"][:, n_before:].sum())
    return wall / n_draws, cpu / n_draws, cpu / gradients


MEASURES = ("wall_seconds_per_draw", "cpu_seconds_per_draw", "cpu_seconds_per_gradient_chain")


def measure(axis: str, numbers: list[int], n_draws: int, repeats: int) -> list[dict[str, Any]]:
    """Measure along one axis."""
    impact: Impact = "I" if axis == "features" else "R"
    elasticity: Elasticity = "matrix" if axis == "classes-matrix" else "homogeneous"
    prepared: dict[int, tuple[SubmodelSampler, float]] = {}
    for number in numbers:
        print(f"{axis}: {number} …", file=sys.stderr, flush=True)
        prepared[number] = prepare(Size.along(axis, number), impact, elasticity)
    times: dict[int, list[tuple[float, float, float]]] = {number: [] for number in numbers}
    for repeat in range(repeats):
        for number, (sampler, _) in prepared.items():
            times[number].append(timed_draws(sampler, repeat * n_draws, n_draws))
    rows: list[dict[str, Any]] = []
    for number, (_, statistics_seconds) in prepared.items():
        row: dict[str, Any] = {"axis": axis, **asdict(Size.along(axis, number)), "number": number}
        row["statistics_seconds"] = statistics_seconds
        for name, values in zip(MEASURES, np.median(times[number], axis=0), strict=True):
            row[name] = float(values)
            row[f"{name}_ratio"] = row[name] / (rows or [row])[0][name]
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Format the result as Markdown."""
    lines = ["| axis | number | statistics, s | per draw, wall | per draw, processor | per gradient, processor |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        ratios = " | ".join(f"{row[f'{name}_ratio']:.2f}" for name in MEASURES)
        lines.append(f"| {row['axis']} | {row['number']:,} | {row['statistics_seconds']:.2f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--axes", nargs="+", choices=AXES)
    for axis in ("samples", "features", "classes", "records"):
        parser.add_argument(f"--{axis}", type=int, nargs="+", help=f"by default {AXES[axis]}")
    parser.add_argument("--draws", type=int, default=500, help="draws of each chain in each repeat; a multiple of 50")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    if arguments.draws < CHUNK or arguments.draws % CHUNK:
        parser.error(f"--draws is {arguments.draws}; give a multiple of {CHUNK}")
    chosen = SHORT if arguments.short else AXES
    rows: list[dict[str, Any]] = []
    loads = [os.getloadavg()[0]]
    for axis in arguments.axes or chosen:
        numbers = getattr(arguments, axis.split("-")[0]) or list(chosen.get(axis, AXES[axis]))
        rows += measure(axis, numbers, arguments.draws, arguments.repeats)
        loads.append(os.getloadavg()[0])
        if arguments.json:
            found = {"chains": CHAINS, "cores": os.cpu_count(), "load_average": loads, "rows": rows}
            arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
