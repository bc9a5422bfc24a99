"""Ask what a fleet saves: many recordings fitted by one command, against one command each.

Simulates recordings of one shape (100 intervals, 90 samples, K = p = 3, impact R), and fits their rates once by one
``lesde fit`` a recording, and once by ``lesde fit FOLDER --out-dir``, with one worker and with two. Compiled programs
are in the cache before the clock starts, as they are on a machine that has fitted before: a command of its own then
pays for imports, tracing and reading programs back, again and again. What a fit in a running process takes by itself is
the rest; it is not batched over runs, since gradients of several runs in one program take as long as one after the
other (1 to 128 lanes, measured on two cores).

    python benchmarks/fleet.py [--runs N] [--curve CURVE] [--json FILE]

Prints JSON: wall and processor seconds a run, and ratios to one command each. Fits are compared draw by draw.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cold_start import timed
from json_result import give

from lesde_infer.fit_result import load
from lesde_infer.simulation import simulate

K, PER_CLASS, INTERVALS, EVERY = 3, 30, 100, 50


def simulated_runs(folder: Path, n_runs: int) -> list[Path]:
    """Write the recordings, which differ in seed and elasticity."""
    paths = []
    for seed in range(n_runs):
        path = folder / f"run{seed:03d}.h5"
        simulate(
            path,
            n_classes=K,
            samples_per_class=PER_CLASS,
            steps=np.arange(0, (INTERVALS + 1) * EVERY, EVERY),
            alpha=1e-3 * (1 + seed % 3),
            beta=-5e-4,
            kappa=1e-4,
            global_scale=1e-3,
            class_scale=5e-4,
            individual_scale=1e-3,
            impact="R",
            seed=seed,
        ).close()
        paths.append(path)
    return paths


def same_draws(one: Path, other: Path) -> bool:
    """Tell whether two fits hold the same draws of γ."""
    return np.array_equal(*(load(path).posterior["gamma"].to_numpy() for path in (one, other)))


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--curve", default="constant")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    result |= {"runs": arguments.runs, "curve": arguments.curve, "intervals": INTERVALS, "samples": K * PER_CLASS}
    options = ["--curve", arguments.curve, "--parts", "rates"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = simulated_runs(folder, arguments.runs)
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        timed(["fit", str(paths[0]), *options], environment)
        singles = [
            timed(["fit", str(path), *options, "--out", str(path.with_suffix(".nc"))], environment) for path in paths
        ]
        ways = {"one_command_each": {key: sum(one[key] for one in singles) for key in singles[0]}}
        for workers in (1, 2):
            out = folder / f"fits{workers}"
            command = ["fit", *map(str, paths), *options, "--out-dir", str(out), "--workers", str(workers)]
            ways[f"fleet_{workers}_workers"] = timed(command, environment)
            result[f"same_draws_{workers}_workers"] = all(
                same_draws(path.with_suffix(".nc"), out / f"{path.stem}.nc") for path in paths
            )
        for way, found in ways.items():
            result[way] = {f"{key}_a_run": value / arguments.runs for key, value in found.items()}
            result[way]["times_as_fast"] = ways["one_command_each"]["wall_seconds"] / found["wall_seconds"]
    give(result, arguments.json)


if __name__ == "__main__":
    main()
