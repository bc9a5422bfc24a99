"""Hold the posterior of γ against elasticity measured on live networks.

Each run trains a small network, recorded in bursts (consecutive records, then a gap), and measures the one-step
drift directly as it goes: real optimizer steps from a saved state, taken back (`data_tools.elasticity`). γ is inferred
from the log with impact R and the defaults (`gamma_alone`), and held against the measurement in ten windows, as
`lesde_infer.check_truth` does.
Beside the verdict stand estimates by plain least squares on the increments of short and of long intervals alone, over
the ratio of sums of the measurement in the same windows: they use the same log without the model, and so tell a bias
of the log from one of the model.

    python benchmarks/measured_truth.py [--work DIR] [--only NAME …]

Recordings and outcomes are kept in the work folder, and not made again if they are there. Results of all runs made so
far go to benchmarks/results/measured_truth.json and .md. Seeds are not those of the recordings on which the model
was developed. Runs with momentum are listed, but do not count: a measured step there moves by the velocity that earlier
steps left, so it is no rate along the residuals of the moment (DESIGN section 4.10).
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gamma_alone import gamma_alone
from jaxtyping import Bool, Float

from data_tools.experiments import ExperimentConfig, run_experiment
from data_tools.recording import Recording
from lesde_infer.interval_lengths import relative_length
from lesde_infer.statistics import Statistics, compute_statistics
from lesde_infer.truth import TruthCheck
from lesde_infer.truth_windows import TruthWindow, compare_windows

HERE = Path(__file__).parent
CHAINS, DRAWS, N_WINDOWS = 2, 400, 10
LEAST_COVERAGE, RATIOS, MOST_FLAGGED = 0.92, (0.8, 1.25), 0.2
RESOLVED = 2.0  # standard errors of its measurement that a window's rate must reach for a ratio to say something


@dataclass(frozen=True)
class Run:
    """A training, and whether it counts towards the totals."""

    name: str
    config: ExperimentConfig
    counted: bool = True


def geomnist(name: str, label_noise: float, seed: int, **others: Any) -> Run:
    """Train LeNet on drawn shapes by the paper's protocol: batch size 1, lr 0.005, 10,000 steps."""
    settings: dict[str, Any] = {
        "dataset": "geomnist",
        "architecture": "lenet",
        "label_noise": label_noise,
        "steps": 10_000,
        "every": 50,
        "lr": 0.005,
        "measure_elasticity_every": 83,
        "elasticity_repeats": 10,
        "probe_per_class": 50,
        "seed": seed,
        **others,
    }
    return Run(name, ExperimentConfig(**settings))


def digits(name: str, architecture: str, batch_size: int, seed: int, **others: Any) -> Run:
    """Train a network on handwritten digits, with 200 bursts and about 130 measurements of 20 to 30 steps each.

    Bursts have five records, hence four single steps each, but for the linear model: from 200 single steps least
    squares tells γ of a window to 30 or 50 %, and nothing else tells what long intervals miss of it.
    """
    alone = batch_size == 1
    settings: dict[str, Any] = {
        "dataset": "digits",
        "architecture": architecture,
        "batch_size": batch_size,
        "steps": 8_000 if alone else 4_000,
        "every": 40 if alone else 20,
        "burst": 2 if architecture == "linear" else 5,
        "lr": 0.01 if alone else 0.05,
        "measure_elasticity_every": 61 if alone else 31,
        "elasticity_repeats": 3 if alone else 20,
        "train_per_class": 120,
        "probe_per_class": 50,
        "validation_per_class": 50,
        "seed": seed,
        **others,
    }
    return Run(name, ExperimentConfig(**settings), counted=settings.get("momentum", 0.0) == 0.0)


RUNS = (
    geomnist("shapes-lenet-p0", 0.0, 11),
    digits("digits-mlp-b32", "mlp", 32, 12),
    digits("digits-cnn-b32", "cnn", 32, 13),
    digits("digits-linear-b32", "linear", 32, 14),
    digits("digits-mlp-b1", "mlp", 1, 15),
    digits("digits-cnn-b1", "cnn", 1, 16),
    digits("digits-linear-b1", "linear", 1, 17),
    geomnist("shapes-lenet-p0.3", 0.3, 18),
    geomnist("shapes-lenet-p0.67", 0.67, 19),
    digits("digits-mlp-b32-p0.3", "mlp", 32, 20, label_noise=0.3),
    digits("digits-mlp-b32-3-classes", "mlp", 32, 21, n_classes=3),
    geomnist("shapes-mlp-p0", 0.0, 22, architecture="mlp"),
    digits("digits-mlp-b32-momentum", "mlp", 32, 23, lr=0.005, momentum=0.9),
    digits("digits-cnn-b32-momentum", "cnn", 32, 24, lr=0.005, momentum=0.9),
    digits("digits-linear-b32-momentum", "linear", 32, 25, lr=0.005, momentum=0.9),
)


def done(path: Path, make: Any) -> Path:
    """Make a file under another name first, so that one which is there is whole."""
    if not path.exists():
        started = time.perf_counter()
        unfinished = path.with_name(f"unfinished-{path.name}")
        make(unfinished)
        unfinished.rename(path)
        print(f"{time.strftime('%H:%M:%S')} {path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return path


def least_squares(statistics: Statistics, chosen: Bool[np.ndarray, " time"]) -> float:
    """γ per step from the increments of some intervals: ratio of sums, without the model."""
    contrast = statistics.contrast
    square = (contrast.direction_square.sum(axis=1) * statistics.lengths)[chosen].sum()
    return float(statistics.n_classes * contrast.direction_increment.sum(axis=1)[chosen].sum() / square)


def increments_alone(statistics: Statistics, windows: tuple[TruthWindow, ...]) -> dict[str, list[float]]:
    """Least squares of the short intervals' increments and of the long ones', in each window."""
    middles = (statistics.steps[1:] + statistics.steps[:-1]) / 2
    short = relative_length(statistics.n_steps) < 0.5
    found: dict[str, list[float]] = {"short": [], "long": []}
    for window in windows:
        inside = (middles >= window.start_step) & (middles < window.stop_step)
        found["short"].append(least_squares(statistics, inside & short))
        found["long"].append(least_squares(statistics, inside & ~short))
    return found


def examine(run: Run, recording: Path, out: Path) -> None:
    """Infer γ of a recorded run, hold it against the measurement, and write what came out."""
    with Recording(recording) as opened:
        layer = opened.choose_layer(None)
        statistics = compute_statistics(opened, layer, "R")
        measured = opened.elasticity(layer, "labels")
        assert measured is not None  # noqa: S101  (all runs measure it)
        steps, rates, tangent = measured.steps, measured.onestep_rates(), measured.tangent_rates()
        accuracy = float(opened.scalars["validation_accuracy"][-1])
    found = gamma_alone(statistics, run.config.seed, n_chains=CHAINS, n_draws=DRAWS)
    middles = (statistics.steps[statistics.starts] + statistics.steps[statistics.stops]) / 2.0
    windows, notes = compare_windows(
        statistics.steps, middles, found.flat, found.flags, steps, rates, tangent, N_WINDOWS
    )
    check = TruthCheck(tuple(windows), None, tuple(notes))
    alone = increments_alone(statistics, check.windows)
    mean = np.array([window.mean.measured for window in check.windows])
    unflagged = [window.flag is None for window in check.windows]
    resolved = [window.mean.ratio for window in check.unflagged if window.mean.measured > RESOLVED * window.mean.error]
    outcome = {
        "name": run.name,
        "counted": run.counted,
        "validation_accuracy": accuracy,
        "r_hat_max": found.r_hat_max,
        "ess_min": found.ess_min,
        "divergences": found.divergences,
        "mixed": found.mixed,
        **check.to_json(),
        "least_squares": alone,
        "n_resolved": len(resolved),
        "resolved_ratio": float(np.median(resolved)) if resolved else None,
        "short_over_mean": middle_ratio(alone["short"], mean, unflagged),
        "long_over_mean": middle_ratio(alone["long"], mean, unflagged),
    }
    out.write_text(json.dumps(outcome, indent=1) + "\n")


def middle_ratio(values: list[float], over: Float[np.ndarray, " window"], chosen: list[bool]) -> float | None:
    """Median ratio over the chosen windows."""
    ratios = (np.array(values) / over)[chosen]
    return float(np.median(ratios)) if ratios.size else None


def record(run: Run, work: Path) -> Path:
    """Train and record a run, unless that was done."""
    return done(work / f"{run.name}.h5", lambda path: run_experiment(run.config, path, force=True))


def carry_out(run: Run, work: Path) -> None:
    """Record a run, fit and check it, as far as that was not done."""
    recording = record(run, work)
    checked = done(work / f"{run.name}.json", lambda path: examine(run, recording, path))
    print(line(json.loads(checked.read_text())), flush=True)


def number(value: float | None, digits: int = 2) -> str:
    """Write a number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def line(outcome: dict[str, Any]) -> str:
    """Return the row of a run in the table of results."""
    counted = [window for window in outcome["windows"] if window["flag"] is None]
    error = [window["error"] / abs(window["measured"]) for window in counted if window["measured"]]
    cells = [
        outcome["name"] + ("" if outcome["mixed"] else f" (r̂ {outcome['r_hat_max']:.3f})"),
        number(outcome["validation_accuracy"]),
        f"{sum(window['compatible'] for window in counted)} of {len(counted)}",
        f"{number(outcome['resolved_ratio'])} ({outcome['n_resolved']})",
        f"{outcome['n_flagged']} of {outcome['n_windows']}",
        number(float(np.median(error)) if error else None),
        f"{sum(window['median']['compatible'] for window in counted)} of {len(counted)}",
        number(outcome["median_ratio_of_medians"]),
        number(outcome["short_over_mean"]),
        number(outcome["long_over_mean"]),
    ]
    return f"| {' | '.join(cells)} |"


def totals(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Hold the runs that count against the targets."""
    counted = [outcome for outcome in outcomes if outcome["counted"]]
    windows = [window for outcome in counted for window in outcome["windows"]]
    unflagged = [window for window in windows if window["flag"] is None]
    ratios = {outcome["name"]: outcome["resolved_ratio"] for outcome in counted if outcome["resolved_ratio"]}
    outside = [name for name, ratio in ratios.items() if not RATIOS[0] <= ratio <= RATIOS[1]]
    coverage = sum(window["compatible"] for window in unflagged) / max(len(unflagged), 1)
    of_medians = sum(window["median"]["compatible"] for window in unflagged) / max(len(unflagged), 1)
    flagged = 1 - len(unflagged) / max(len(windows), 1)
    return {
        "runs": len(counted),
        "windows": len(windows),
        "coverage90": coverage,
        "coverage90_of_medians": of_medians,
        "flagged": flagged,
        "ratio_outside": outside,
        "meets": coverage >= LEAST_COVERAGE and flagged < MOST_FLAGGED and not outside,
    }


def page(outcomes: list[dict[str, Any]]) -> str:
    """Return the results as a page of Markdown."""
    total = totals(outcomes)
    low, high = RATIOS
    head = [
        "# The posterior of γ against elasticity measured on the live network",
        "",
        "Made by `make truth` (`benchmarks/measured_truth.py`, where the runs are described).",
        "",
        f"{len(outcomes)} of {len(RUNS)} runs carried out; {total['runs']} count, with {total['windows']} windows. "
        f"Compatible with the 90 % interval: {total['coverage90']:.1%} of the unflagged windows (target: at least "
        f"{LEAST_COVERAGE:.0%}; of median steps {total['coverage90_of_medians']:.1%}). "
        f"Flagged: {total['flagged']:.1%} (target: below {MOST_FLAGGED:.0%}). "
        f"Median ratio of posterior to measurement outside {low}–{high}: "
        f"{', '.join(total['ratio_outside']) or 'in no run'}.",
        "",
        "Compatible: windows in which the measured mean rate (ratio of sums) and the posterior of the same mean agree, "
        "of those that no flag covers. Ratio: posterior median over measurement, its median over those windows in "
        f"which the measurement exceeds {RESOLVED:g} standard errors (how many). Error: standard error of a window's "
        "measurement over the measurement, the typical one. Medians: agreement and ratio of the rate of the median "
        "step. Then γ by plain least squares on the increments of single steps (short), and of the intervals between "
        "bursts (long), over the measured mean.",
        "",
        "| run | accuracy | compatible | ratio | flagged | error | of medians | their ratio | short | long |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [line(outcome) for outcome in outcomes if outcome["counted"]]
    beside = [line(outcome) for outcome in outcomes if not outcome["counted"]]
    if beside:
        rows += ["| *with momentum 0.9, not counted:* | | | | | | | | | |", *beside]
    return "\n".join([*head, *rows, "", *(table for outcome in outcomes for table in window_table(outcome))])


def window_table(outcome: dict[str, Any]) -> list[str]:
    """Return the windows of a run, rates per optimizer step."""
    rows = [
        f"## {outcome['name']}",
        "",
        "| steps | measured mean ± error | posterior: 5 % · 50 % · 95 % | median step ± error | short | long | |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = outcome["least_squares"]
    for window, short, long in zip(outcome["windows"], alone["short"], alone["long"], strict=True):
        remark = window["flag"] or ("" if window["compatible"] else "**differs**")
        rows.append(
            f"| {window['start_step']}–{window['stop_step']} "
            f"| {window['measured']:.3g} ± {window['error']:.2g} "
            f"| {window['q05']:.3g} · {window['q50']:.3g} · {window['q95']:.3g} "
            f"| {window['median']['measured']:.3g} ± {window['median']['error']:.2g} "
            f"| {short:.3g} | {long:.3g} | {remark} |"
        )
    return [*rows, ""]


def main() -> None:
    """Carry out the runs, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=HERE / "work" / "truth", help="folder of recordings and fits")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the tables")
    parser.add_argument(
        "--only", nargs="+", choices=[run.name for run in RUNS], help="these runs; the table is of all that were made"
    )
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    chosen = [run for run in RUNS if not arguments.only or run.name in arguments.only]
    for run in chosen:
        carry_out(run, arguments.work)
        made = [arguments.work / f"{run.name}.json" for run in RUNS]
        outcomes = [json.loads(path.read_text()) for path in made if path.exists()]
        arguments.results.mkdir(parents=True, exist_ok=True)
        result = {"totals": totals(outcomes), "runs": outcomes}
        (arguments.results / "measured_truth.json").write_text(json.dumps(result, indent=1) + "\n")
        (arguments.results / "measured_truth.md").write_text(page(outcomes))
        print(json.dumps(totals(outcomes)), flush=True)


if __name__ == "__main__":
    main()
