"""Hold γ through the transition of an adaptive recording against that of an evenly spaced one of the same size.

LeNet learns shapes with true labels, one sample a step, and is recorded three times over the same training: at every
step, every 50 steps, and by the adaptive schedule in a file no larger than the second. Class-mean residuals relax
within steps while classes separate, so increments over 50 steps see less of the drift. γ in windows of the run is held
against what single steps give: ratio of sums, by least squares on the logits under impact R. The transition are the
windows in which the mean square of the impact's contrasts is between 90 and 10 % of its largest. Of the recording of
every step, records further apart are kept as well, and the standard error of what its single steps give says what any
choice of so many of them could.

    python benchmarks/adaptive.py [--seeds 0 1 2] [--target 0.1] [--json FILE] [--work DIR]

Recordings of every step take 1 GB each while they are read, and are removed. Results of a seed are kept in the work
folder: run it again after an interruption.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from interval_bias import least_squares
from jaxtyping import Float

from data_tools.experiments import ExperimentConfig, run_experiment
from data_tools.recording import Recording
from data_tools.thinning import thin_recording
from lesde_infer.statistics import Statistics, compute_statistics

STEPS, WINDOW, EVERY, LAYER = 10_000, 500, 50, "fc3"
FURTHER_APART = (2, 5, 10, 20)  # steps between the records that are kept besides
EARLY, LATE = 0.9, 0.1  # of the largest mean square of impacts, between which classes separate
CONFIG: dict[str, Any] = {"steps": STEPS, "validation_per_class": 1}


def statistics_of(path: Path) -> Statistics:
    """Return the statistics of the logits under impact R."""
    with Recording(path) as recording:
        return compute_statistics(recording, LAYER, "R")


def in_windows(statistics: Statistics) -> list[float]:
    """Return γ of each window by least squares."""
    return [least_squares(statistics, start, start + WINDOW) for start in range(0, STEPS, WINDOW)]


def products(
    statistics: Statistics, start: int
) -> tuple[Float[np.ndarray, " interval"], Float[np.ndarray, " interval"], Float[np.ndarray, " interval"]]:
    """Return ⟨m, Δ⟩ and |m|² of the intervals in a window, m the drift at γ = 1, and their lengths."""
    inside = (statistics.steps[:-1] >= start) & (statistics.steps[1:] <= start + WINDOW)
    lengths = statistics.lengths[inside]
    exposure = lengths / statistics.n_classes
    product = statistics.contrast.direction_increment[inside].sum(axis=1) * exposure
    return product, statistics.contrast.direction_square[inside].sum(axis=1) * exposure**2, lengths


def all_intervals(statistics: Statistics) -> list[float]:
    """Return γ of each window by least squares on all intervals in it, short and long."""
    rows = []
    for start in range(0, STEPS, WINDOW):
        product, square, lengths = products(statistics, start)  # noise grows with the interval
        rows.append(float((product / lengths).sum() / (square / lengths).sum()) if lengths.size else float("nan"))
    return rows


def single_step_errors(statistics: Statistics) -> list[float]:
    """Return the standard error of γ of each window by least squares on single steps, from their residuals."""
    rows = []
    for start in range(0, STEPS, WINDOW):
        product, square, _ = products(statistics, start)
        residual = product - product.sum() / square.sum() * square
        rows.append(float(np.sqrt((residual**2).sum()) / square.sum()))
    return rows


def impact_sizes(statistics: Statistics) -> list[float]:
    """Return the mean square of the impact's contrasts in each window."""
    square = statistics.contrast.direction_square.sum(axis=1)
    middle = (statistics.steps[:-1] + statistics.steps[1:]) / 2
    return [float(square[(middle >= s) & (middle < s + WINDOW)].mean()) for s in range(0, STEPS, WINDOW)]


def one_seed(seed: int, target: float, work: Path) -> dict[str, Any]:
    """Train three times, by the same seed, and return γ in windows by each recording."""
    evenly, adaptive, dense = (work / f"{name}-seed{seed}.h5" for name in ("evenly", "adaptive", "dense"))
    run_experiment(ExperimentConfig(**CONFIG, seed=seed, every=EVERY, burst=1), evenly, force=True)
    with Recording(evenly) as recording:
        n_records = recording.n_records
        record_bytes = sum(recording.features(layer)[0].nbytes for layer in recording.layers)
    bound = n_records * record_bytes  # of features; the adaptive schedule counts them alone as well
    config = ExperimentConfig(
        **CONFIG, seed=seed, schedule="adaptive", every=5, burst=2, most=500, target=target, max_bytes=bound
    )
    run_experiment(config, adaptive, force=True)
    run_experiment(ExperimentConfig(**CONFIG, seed=seed, every=1, burst=1), dense, force=True)
    with Recording(dense) as every_step, Recording(adaptive) as chosen:
        for record in range(0, chosen.n_records, 20):  # one and the same training
            same = every_step.features(LAYER)[int(np.flatnonzero(every_step.steps == chosen.steps[record])[0])]
            assert np.array_equal(same, chosen.features(LAYER)[record])  # noqa: S101
        placed = np.histogram(chosen.steps, np.arange(0, STEPS + 1, WINDOW))[0].tolist()
        thinned = {}
        for every in FURTHER_APART:
            kept = thin_recording(every_step, work / f"thinned-seed{seed}.h5", range(0, STEPS + 1, every), force=True)
            thinned[str(every)] = in_windows(statistics_of(kept))
            kept.unlink()
    full, few, chosen_statistics = statistics_of(dense), statistics_of(evenly), statistics_of(adaptive)
    dense.unlink()
    return {
        "bytes": {"evenly": evenly.stat().st_size, "adaptive": adaptive.stat().st_size},
        "records": {"evenly": n_records, "adaptive": len(chosen_statistics.steps)},
        "adaptive_records_by_window": placed,
        "impact": impact_sizes(full),
        "every_step": in_windows(full),
        "every_step_error": single_step_errors(full),
        "thinned": thinned,
        "every_50": in_windows(few),
        "adaptive_pairs": in_windows(chosen_statistics),
        "adaptive_all": all_intervals(chosen_statistics),
    }


def transition(found: dict[str, Any]) -> list[int]:
    """Return the windows in which classes separate."""
    impact: Float[np.ndarray, " window"] = np.array(found["impact"])
    largest = int(impact.argmax())
    return [w for w in range(largest, len(impact)) if LATE <= impact[w] / impact[largest] <= EARLY]


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return γ of the transition's windows over that of single steps, as Markdown."""
    lines = [
        "| seed | window from | γ of single steps | every 2, 5, 10, 20 | every 50 | adaptive, pairs | adaptive, all |"
        " adaptive records |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, found in results.items():
        for window in transition(found):
            truth = found["every_step"][window]
            cells = [", ".join(f"{found['thinned'][str(every)][window] / truth:.2f}" for every in FURTHER_APART)]
            cells += [f"{found[name][window] / truth:.2f}" for name in ("every_50", "adaptive_pairs", "adaptive_all")]
            lines.append(
                f"| {seed} | {window * WINDOW:,} | {truth:.3g} ± {found['every_step_error'][window]:.2g} | "
                f"{' | '.join(cells)} | {found['adaptive_records_by_window'][window]} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do all seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=float, default=0.1, help="movement of residuals from burst to burst")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "adaptive")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    results = {}
    for seed in arguments.seeds:
        kept = arguments.work / f"seed{seed}-target{arguments.target}.json"
        if not kept.exists():
            kept.write_text(json.dumps(one_seed(seed, arguments.target, arguments.work)))
        results[str(seed)] = json.loads(kept.read_text())
        print(table({str(seed): results[str(seed)]}), flush=True)
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps({"target": arguments.target, "seeds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
