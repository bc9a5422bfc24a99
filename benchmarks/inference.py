"""Ask how much effective sample size a second lesde and other ways to fit the LE-SDE give, on one file.

Simulates a recording under impact I with constant rates and Gaussian noise, for which every contestant's model holds,
and has each contestant (`plain_models.py`, `peer_models.py`, and lesde's own fit) infer γ and the shared rate g from
it, in a process of its own, one after the other. Noise of lesde is Student-t all the same, with ν unknown.

    python benchmarks/inference.py [--peers-python .venv-peers/bin/python] [--seconds 40] [--samples 300 3000]
        [--contestants NAME …] [--intervals 200] [--impact I] [--work FOLDER] [--json FILE]

Without `--peers-python` dynestyx and cd-dynamax are left out. Prints a table and, with `--json`, writes all figures:

- effective sample size (ESS): bulk, the smaller one of γ and g (arviz-stats, the same for all);
- seconds: wall clock and processor, of warm-up and draws (of lesde: of all of a second fit, which compiles nothing, and
  of the first fit, which compiles all, with an empty cache of programs);
- ratio: ESS a second of processor time of `lesde` over that of the contestant. A run that `--seconds` (of the
  processor) ended is taken to go on as it went: its ESS for all draws over the time of all draws; one that never got
  through its warm-up has given nothing: after ≲, what it would have, if its iterations so far were
  as many independent draws.
- γ of each contestant, mean and standard deviation, to see that they agree, and what was put in.

Processor seconds hardly depend on what else a machine does; wall seconds do, hence load averages beside them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from jaxtyping import Float

from lesde_infer.simulation import simulate

K, EVERY = 3, 50
ALPHA, BETA, KAPPA, SCALE = 5e-4, -1e-4, 1e-4, 5e-3
PLAIN = ("plain-latent", "plain-strata", "plain-independent")
DYNESTYX = ("dynestyx-transition", "dynestyx-sde", "dynestyx-kalman")
PEERS = (*DYNESTYX, "cd-dynamax")
LESDE = ("lesde", "lesde-class-means")
ALL_DRAWS = 750  # of each chain, as in `timed_nuts.py`
HERE = Path(__file__).parent


def write_run(path: Path, n_samples: int, n_intervals: int, impact: str) -> None:
    """Simulate the run: class means of order one, which drift by as much, and more noise than drift an interval."""
    generator = np.random.default_rng(1)
    means = np.repeat(generator.normal(size=(K, K)), n_samples // K, axis=0)
    simulate(
        path,
        n_classes=K,
        samples_per_class=n_samples // K,
        steps=np.arange(0, (n_intervals + 1) * EVERY, EVERY),
        alpha=ALPHA,
        beta=BETA,
        kappa=KAPPA,
        global_scale=SCALE,
        class_scale=SCALE,
        individual_scale=SCALE,
        impact=impact,
        first_features=means + 0.3 * generator.normal(size=means.shape),
        seed=1,
    ).close()


def effective_size(draws: Float[np.ndarray, "chain draw"]) -> float:
    """Bulk effective sample size."""
    return float(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="bulk"))


def run_contestant(name: str, recording: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one contestant in its environment, with an empty cache of compiled programs, and describe it."""
    python = str(arguments.peers_python) if name in PEERS else sys.executable
    environment = dict(os.environ) | {"PYTHONPATH": str(HERE.parent), "XDG_CACHE_HOME": str(folder / f"cache-{name}")}
    if (folder / f"{name}.json").exists() and (folder / f"{name}.npz").exists():  # of an earlier call with --work
        return read_contestant(name, folder)
    command = [python, str(HERE / "contestant.py"), name, str(recording)]
    options = ["--seconds", str(arguments.seconds), "--impact", arguments.impact, "--out", str(folder)]
    load = os.getloadavg()[0]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"name": name, "failed": done.stderr.strip().splitlines()[-1:] or ["no message"]}
    figures = json.loads((folder / f"{name}.json").read_text()) | {"load_average": [load, os.getloadavg()[0]]}
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    return read_contestant(name, folder)


def read_contestant(name: str, folder: Path) -> dict[str, Any]:
    """Describe a contestant by the figures and draws it wrote."""
    figures = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as stored:
        draws = {key: stored[key] for key in stored.files}
    found = {"name": name, **figures, **describe(draws, figures)}
    if "gradients_per_iteration" in figures:
        gradients = figures.get(
            "gradients", figures["gradients_per_iteration"] * figures["iterations"] * found["chains"]
        )
        found["cpu_milliseconds_per_gradient"] = 1e3 * figures["sampling_cpu_seconds"] / gradients
    return found


def describe(draws: dict[str, Float[np.ndarray, "chain draw"]], figures: dict[str, Any]) -> dict[str, Any]:
    """Return effective sizes, rates of them, and what was found for γ, a step."""
    chains, n_draws = draws["gamma"].shape
    if n_draws < 8:  # nothing to speak of
        bound = {
            f"ess_per_{kind}second": chains * figures["iterations"] / figures[f"sampling_{kind}seconds"]
            for kind in ("", "cpu_")
        }
        return {"draws": n_draws, "is_bound": True, **bound}
    sizes = {key: effective_size(draws[key]) for key in ("gamma", "shared_rate")}
    ess = min(sizes.values())
    found: dict[str, Any] = {"draws": n_draws, "is_bound": False, "ess": sizes}
    for kind in ("", "cpu_"):
        seconds, size = figures[f"sampling_{kind}seconds"], ess
        if not figures["finished"]:
            share = ALL_DRAWS / n_draws
            seconds = (seconds - figures[f"warmup_{kind}seconds"]) * share + figures[f"warmup_{kind}seconds"]
            size = ess * share
        found[f"ess_per_{kind}second"] = size / seconds
        if figures["finished"]:
            found[f"ess_per_{kind}second_with_compilation"] = ess / figures[f"whole_{kind}seconds"]
    gamma = draws["gamma"] / EVERY
    return found | {"gamma": {"mean": float(gamma.mean()), "sd": float(gamma.std())}}


def compare(n_samples: int, names: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run contestants on one file, one after the other."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = (arguments.work or Path(place)) / f"{arguments.impact}-{n_samples}-{arguments.intervals}"
        folder.mkdir(parents=True, exist_ok=True)
        recording = folder / "run.h5"
        if not recording.exists():
            write_run(recording, n_samples, arguments.intervals, arguments.impact)
        for name in names:
            print(f"n = {n_samples}: {name} …", file=sys.stderr, flush=True)
            rows[name] = run_contestant(name, recording, folder, arguments)
    for row in rows.values():
        for other in LESDE:
            for kind in ("", "cpu_"):
                key = f"ess_per_{kind}second"
                if key in row and key in rows.get(other, {}):
                    row[f"{other}_over_this{kind and '_cpu'}"] = rows[other][key] / row[key]
    return [{"samples": n_samples, **row} for row in rows.values()]


def table(rows: list[dict[str, Any]]) -> str:
    """Format the result as Markdown."""
    head = (
        "| n | contestant | draws | ESS | processor s | ms a gradient | ESS per processor s | ESS per wall s | "
        "`lesde` is × as fast (wall) | its class means alone | γ ± sd, 10⁻⁴ a step |"
    )
    lines = [head, "|---" * 11 + "|"]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['samples']} | {row['name']} | failed: {row['failed'][0]} |" + " |" * 8)
            continue
        more, less = ("≳ ", "≲ ") if row["is_bound"] else ("", "")
        ratio = f"{more}{row['lesde_over_this_cpu']:.3g} ({more}{row['lesde_over_this']:.3g})"
        alone = (
            f"{more}{row['lesde-class-means_over_this_cpu']:.3g}" if "lesde-class-means_over_this_cpu" in row else ""
        )
        ess = "–" if row["is_bound"] else f"{min(row['ess'].values()):.0f}"
        gamma = "–" if row["is_bound"] else f"{row['gamma']['mean'] * 1e4:.2f} ± {row['gamma']['sd'] * 1e4:.2f}"
        draws = f"{row['chains']} × {row['draws']}"
        gradient = f"{row['cpu_milliseconds_per_gradient']:.2f}" if "cpu_milliseconds_per_gradient" in row else "–"
        lines.append(
            f"| {row['samples']} | {row['name']} | {draws} | {ess} | {row['sampling_cpu_seconds']:.1f} | {gradient} | "
            f"{less}{row['ess_per_cpu_second']:.3g} | {less}{row['ess_per_second']:.3g} | {ratio} | {alone} | {gamma} |"
        )
    return "\n".join(lines)


def versions(python: Path | None) -> dict[str, str]:
    """Return the versions of what was compared."""
    found = {name: version(name) for name in ("lesde-infer", "jax", "numpyro")}
    if python is None:
        return found
    code = (
        "from importlib.metadata import version as v; print(*(v(n) for n in ('dynestyx','cd-dynamax','jax','numpyro')))"
    )
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return found | dict(zip(("dynestyx", "cd-dynamax", "peers-jax", "peers-numpyro"), answer, strict=True))


def main() -> None:
    """Run the benchmark; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers-python", type=Path, help="Python with dynestyx and cd-dynamax (make bench-peers)")
    parser.add_argument("--contestants", nargs="+", help="besides lesde; by default all that can run")
    parser.add_argument("--seconds", type=float, default=40.0, help="processor seconds of sampling of each contestant")
    parser.add_argument("--samples", type=int, nargs="+", default=[300], help="peers only run on the first")
    parser.add_argument("--intervals", type=int, default=200)
    parser.add_argument("--impact", choices=("I", "R"), default="I", help="peers have no R")
    parser.add_argument("--work", type=Path, help="keep files here, and do not run again what already ran here")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    with_peers = arguments.peers_python is not None and arguments.impact == "I"
    wanted = arguments.contestants or [*PLAIN, *(PEERS if with_peers else ())]
    rows: list[dict[str, Any]] = []
    for place, n_samples in enumerate(arguments.samples):
        names = [name for name in wanted if with_peers * (place == 0) or name not in PEERS]
        rows += compare(n_samples, [*LESDE, *names], arguments)
        print(table(rows), flush=True)
        if arguments.json:
            settings = {"intervals": arguments.intervals, "impact": arguments.impact, "seconds": arguments.seconds}
            truth = {"gamma": ALPHA - BETA, "classes": K, "features": K, "cores": os.cpu_count()}
            found = {**settings, **truth, "versions": versions(arguments.peers_python), "rows": rows}
            arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
