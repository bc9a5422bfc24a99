"""Ask how long one waits for a command: help, inspection, and a first and a second fit.

Each command is a process of its own. Before the first fit the cache of compiled programs is empty; the second finds it.
The recording is simulated, 200 intervals of 300 samples (K = p = 3, impact R). Beside wall seconds stand processor
seconds of the process and its children, which other work on the machine disturbs less, and for help and inspection
whether JAX or PyTorch were imported, which would take most of the time.

    python benchmarks/cold_start.py [--repeats N] [--json FILE]

Prints JSON: of help and inspection the least of the repeats.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fit_speed import simulated_run
from json_result import give

HEAVY = ("jax", "torch")


def timed(arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run lesde once, in a process of its own."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "lesde_infer.cli", *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "processor_seconds": used}


def imported(arguments: list[str], environment: dict[str, str]) -> list[str]:
    """Return which of the heavy packages a command imports."""
    command = [sys.executable, "-X", "importtime", "-m", "lesde_infer.cli", *arguments]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    return [name for name in HEAVY if name in modules]


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5, help="of help and inspection")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run.h5"
        simulated_run(run)
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        quick = {"help": ["--help"], "fit_help": ["fit", "--help"], "inspect": ["inspect", str(run)]}
        for name, command in quick.items():
            found = [timed(command, environment) for _ in range(arguments.repeats)]
            least = min(found, key=lambda one: one["wall_seconds"])
            result[name] = {**least, "imports": imported(command, environment)}
        for name, options in {
            "fit": [],
            "fit_rates": ["--parts", "rates"],
            "fit_constant": ["--curve", "constant"],
        }.items():
            environment["XDG_CACHE_HOME"] = str(Path(folder) / name)
            for turn in ("first", "second"):
                result[f"{turn}_{name}"] = timed(["fit", str(run), *options], environment)
    give(result, arguments.json)


if __name__ == "__main__":
    main()
