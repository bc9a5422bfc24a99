"""How much of γ survives when a run is recorded less often, and in bursts.

An MLP learns digits, with plain gradient descent and with momentum, and is recorded at every step. The recording is
thinned to increments over 5, 20 and 50 steps and to bursts (pairs of consecutive steps), each is fitted, and γ in
windows of the run is held against γ of one real step, measured on the live network. A tenfold thinning without bursts
must move γ by less than its own 90 % interval, or be flagged (`interval_bias`).

    python benchmarks/interval_bias.py [--folder DIR] [--only NAME …]

Trains once per optimizer, fits once per recording, and keeps both in the folder: run it again after an interruption.
Writes a table, Markdown, to standard output and to FOLDER/interval_bias.md.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from data_tools.experiments import ExperimentConfig, run_experiment
from data_tools.recording import Recording
from data_tools.thinning import thin_recording
from lesde_infer.inference import fit
from lesde_infer.statistics import Statistics, compute_statistics

STEPS, FIRST, WINDOW = 2400, 400, 400
MEASURED_EVERY, REPEATS = 16, 2  # of each of ten classes: 20 steps a measurement
LAYER = "fc3"
OPTIMIZERS: dict[str, dict[str, float]] = {
    "plain": {"lr": 0.01},
    "momentum": {"lr": 0.001, "momentum": 0.9},
}


@dataclass(frozen=True)
class Schedule:
    """Which steps are kept: `burst` consecutive ones every `every`, from `start` on."""

    name: str
    every: int
    burst: int = 1
    start: int = 0
    stop: int = STEPS

    def records(self, steps: Int[np.ndarray, " record"]) -> Int[np.ndarray, " kept"]:
        """Return the indices of the records that are kept."""
        return np.flatnonzero((steps >= self.start) & (steps <= self.stop) & (steps % self.every < self.burst))


SCHEDULES = (
    Schedule("increments over 50 steps", 50),
    Schedule("increments over 20 steps", 20),
    Schedule("pairs every 20 steps", 20, 2),
    Schedule("pairs every 80 steps", 80, 2),
    Schedule("increments over 5 steps", 5),
    Schedule("increments over 1 step, from 1,600", 1, start=1600),
)
TENFOLD = {"increments over 5 steps": "increments over 50 steps"}  # thinned to


def dense_recording(folder: Path, name: str) -> Path:
    """Train, record every step and measure elasticity, unless that was done before."""
    path = folder / f"{name}.h5"
    config = ExperimentConfig(
        dataset="digits",
        architecture="mlp",
        steps=STEPS,
        every=1,
        burst=1,
        measure_elasticity_every=MEASURED_EVERY,
        elasticity_repeats=REPEATS,
        train_per_class=100,
        probe_per_class=30,
        validation_per_class=10,
        **OPTIMIZERS[name],  # type: ignore[arg-type]
    )
    if path.exists():
        with Recording(path) as recording:
            if recording.steps[-1] == STEPS:
                return path
    return run_experiment(config, path, force=True)


def windows() -> Iterator[tuple[int, int]]:
    """Yield the first and last step of each window."""
    for start in range(FIRST, STEPS, WINDOW):
        yield start, start + WINDOW


def least_squares(statistics: Statistics, start: int, stop: int) -> float:
    """Return γ of the window by least squares on the shortest intervals, feedback left out: the ratio of sums."""
    inside = (statistics.steps[:-1] >= start) & (statistics.steps[1:] <= stop)
    inside &= statistics.n_steps == statistics.n_steps.min()
    if not inside.any():
        return float("nan")
    exposure = statistics.lengths[inside] / statistics.n_classes
    product = statistics.contrast.direction_increment[inside].sum(axis=1)
    square = statistics.contrast.direction_square[inside].sum(axis=1)
    return float((product * exposure).sum() / (square * exposure**2).sum())


def measured(path: Path) -> list[dict[str, float]]:
    """Return median, its standard error, and ratio of sums of the measured one-step γ in each window."""
    rows = []
    with Recording(path) as recording:
        elasticity = recording.elasticity(LAYER)
        assert elasticity is not None  # noqa: S101  (this script measured it)
        rates = elasticity.onestep_rates()
        for start, stop in windows():
            inside = (elasticity.steps >= start) & (elasticity.steps < stop)
            values = rates.rate[inside]
            rows.append(
                {
                    "median": float(np.median(values)),
                    "error": float(1.2533 * values.std(ddof=1) / np.sqrt(inside.sum())),
                    "pooled": rates.pooled(inside)[0],
                }
            )
    return rows


def fitted(path: Path, out: Path, schedule: Schedule) -> dict[str, Any]:
    """Thin and fit, unless that was done before; return what is reported of the fit."""
    if out.exists():
        return dict(json.loads(out.read_text()))
    thinned = out.with_suffix(".h5")
    with Recording(path) as recording:
        thin_recording(recording, thinned, schedule.records(recording.steps), force=True)
    with Recording(thinned) as recording:
        statistics = compute_statistics(recording, LAYER, "R")
    result = fit(thinned, layer=LAYER, impact="R", curve="gp", seed=0, n_draws=300, allow_unconverged=True)
    thinned.unlink()
    gamma, middle = result.posterior["gamma"].to_numpy(), (statistics.steps[1:] + statistics.steps[:-1]) / 2
    rows: list[dict[str, Any]] = []
    for start, stop in windows():
        inside = (middle >= start) & (middle < stop)
        if not inside.any() or schedule.start > start:
            rows.append({})
            continue
        quantiles = np.quantile(np.median(gamma[:, :, inside], axis=2), [0.05, 0.5, 0.95])
        covered = [flagged_share(result.flags, name, start, stop) for name in FLAGS]
        rows.append(
            {
                "q05": quantiles[0],
                "q50": quantiles[1],
                "q95": quantiles[2],
                "least_squares": least_squares(statistics, start, stop),
                "flags": [name for name, share in zip(FLAGS, covered, strict=True) if share > 0.5],
                "persistence": float(np.median(statistics.impact_persistence[inside])),
                "loss": float(np.median(statistics.interval_loss[inside])),
            }
        )
    diagnostics = result.diagnostics()
    report = {
        "schedule": asdict(schedule),
        "n_records": len(statistics.steps),
        "converged": diagnostics.converged,
        "problems": list(diagnostics.problems),
        "wall_seconds": float(result.data.attrs["wall_seconds"]),
        "windows": rows,
    }
    out.write_text(json.dumps(report, indent=1, default=float) + "\n")
    return report


FLAGS = ("interval_bias", "gamma_not_identified")


def flagged_share(flags: Any, name: str, start: int, stop: int) -> float:
    """Return the share of a window that flags of one name cover."""
    covered = sum(
        max(0, min(stop, flag.stop_step) - max(start, flag.start_step)) for flag in flags if flag.name == name
    )
    return covered / (stop - start)


def table(truth: list[dict[str, float]], fits: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of one run's table, Markdown."""
    head = [f"{start:,}–{stop:,}" for start, stop in windows()]
    lines = ["| recorded | converged | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    cells = [f"{row['median']:.2f} ± {row['error']:.2f} ({row['pooled']:.2f})" for row in truth]
    lines.append("| **measured on the network** | | " + " | ".join(cells) + " |")
    for name, report in fits.items():
        cells = []
        for row in report["windows"]:
            if not row:
                cells.append("")
                continue
            marks = "".join({"interval_bias": " ≥", "gamma_not_identified": " ?"}[flag] for flag in row["flags"])
            cells.append(f"{row['q50']:.2f} [{row['q05']:.2f}, {row['q95']:.2f}] ({row['least_squares']:.2f}){marks}")
        lines.append(f"| {name} | {'yes' if report['converged'] else 'no'} | " + " | ".join(cells) + " |")
    return lines


def requirement(fits: dict[str, dict[str, Any]]) -> list[str]:
    """Say, window by window, whether tenfold thinning moved γ within its interval, or was flagged."""
    lines = []
    for fine, coarse in TENFOLD.items():
        if fine not in fits or coarse not in fits:
            continue
        outcomes = []
        for (start, _), a, b in zip(windows(), fits[fine]["windows"], fits[coarse]["windows"], strict=True):
            flagged = "interval_bias" in b["flags"]
            moved = not b["q05"] <= a["q50"] <= b["q95"]
            word = "flagged" if flagged else ("MOVED UNFLAGGED" if moved else "within its interval")
            outcomes.append(f"{start:,}: {word}" + (f" (moved to {b['q50'] / a['q50']:.2f})" if moved else ""))
        lines.append(f"Thinned tenfold, {fine} → {coarse}: " + "; ".join(outcomes) + ".")
    return lines


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "work" / "interval_bias")
    parser.add_argument("--only", nargs="*", choices=tuple(OPTIMIZERS), default=tuple(OPTIMIZERS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    text: list[str] = []
    for name in arguments.only:
        path = dense_recording(arguments.folder, name)
        fits = {}
        for schedule in SCHEDULES:
            out = arguments.folder / f"{name}-{schedule.every}-{schedule.burst}-{schedule.start}.json"
            fits[schedule.name] = fitted(path, out, schedule)
            print(f"{name}: {schedule.name} done", flush=True)
        options = ", ".join(f"{key} {value:g}" for key, value in OPTIMIZERS[name].items())
        text += [f"## {name} ({options})", "", *table(measured(path), fits), "", *requirement(fits), ""]
        (arguments.folder / "interval_bias.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
