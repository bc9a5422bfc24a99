"""Ask how long a fit takes, cold and warm.

Simulates a run of 200 intervals and 300 samples (K = p = 3, impact R), and fits it twice in one process, with Gaussian
process curves and all submodels: the first fit compiles or reads compiled programs from the cache, the second does
neither. With an empty cache (`XDG_CACHE_HOME=$(mktemp -d)`) the first is cold in earnest.

    python benchmarks/fit_speed.py [--json FILE]

Prints JSON. Wall seconds on a shared machine scatter; processor seconds beside them hardly do. How this compares with
other ways to fit the model is the question of `inference.py`.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from jaxtyping import Float
from json_result import give

from data_tools.recording import Recording
from lesde_infer.fit_result import Fit
from lesde_infer.inference import fit
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics

K, PER_CLASS, INTERVALS, EVERY = 3, 100, 200, 50
QUANTITY = "gamma at the end of the record"


def simulated_run(path: Path) -> None:
    """Write the run that is fitted."""
    simulate(
        path,
        n_classes=K,
        samples_per_class=PER_CLASS,
        steps=np.arange(0, (INTERVALS + 1) * EVERY, EVERY),
        alpha=lambda t: 2e-3 * (1 + t / 5000) ** -0.5,
        beta=-5e-4,
        kappa=1e-4,
        global_scale=1e-3,
        class_scale=5e-4,
        individual_scale=1e-3,
        impact="R",
        dof=4.0,
        seed=1,
    ).close()


def effective_size(draws: Float[np.ndarray, "chain draw"]) -> float:
    """Bulk effective sample size."""
    return float(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="bulk"))


def describe(result: Fit) -> dict[str, float]:
    """Return the figures of one fit."""
    gradients = result.data["sample_stats"]["n_steps_by_submodel"].to_numpy()
    ess = effective_size(result.posterior["gamma"].isel(time=-1).to_numpy())
    seconds = float(result.data.attrs["wall_seconds"])
    return {
        "wall_seconds": seconds,
        "compile_seconds": float(result.data.attrs["compile_seconds"]),
        "gradients_per_draw": float(gradients.mean()),
        "ess_bulk": ess,
        "ess_per_second": ess / seconds,
        "r_hat_max": result.diagnostics().r_hat_max,
        "converged": result.diagnostics().converged,
    }


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"quantity": QUANTITY, "intervals": INTERVALS, "samples": K * PER_CLASS}
    result |= {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        simulated_run(path)
        for name in ("cold", "warm"):
            start = time.process_time()
            found = fit(path, impact="R", curve="gp", seed=0)
            result[name] = {"processor_seconds": time.process_time() - start, **describe(found)}
        with Recording(path) as recording:
            start = time.perf_counter()
            compute_statistics(recording, "logits", "R")
            result["statistics_seconds"] = time.perf_counter() - start
    give(result, arguments.json)


if __name__ == "__main__":
    main()
