"""Forecast recordings from 30 % and 50 % of their steps, and score what came.

Beside persistence, a line in log t, and the forecast by the paper's estimators (`lesde_infer.moment_forecast`).

    python benchmarks/forecasts.py [--data ../shared/data] [--recordings DIR] [--work DIR] [--only NAME …]
        [--at 0.3 0.5] [--fit-only]

Each prefix is fitted with the defaults of `lesde forecast` (impact R, logits, grouping by `labels`) and its fit kept in
the work folder: a run that was broken off goes on where it was, and forecasts can be made again without fitting.
``--recordings`` adds the recordings of a folder, such as those of `make paper`. Fits of one name are made one after
the other; several processes may work on different names at a time (``--fit-only``).
Results go to benchmarks/results/forecasts.json and .md.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert import recording_from_npz
from data_tools.recording import Recording
from lesde_infer.fit_result import Fit, load
from lesde_infer.forecasting import continue_fit
from lesde_infer.future_grid import future_grid, prefix_end
from lesde_infer.inference import fit
from lesde_infer.predictive import PredictionError

HERE = Path(__file__).parent
NAMES = ("geomnist_p0.0", "geomnist_p0.5", "geomnist_p0.67", "geomnist_p0.8", "geomnist_p0.0_dense")
DETAILED = 12  # forecasts, of which every metric is listed
KEY_METRICS = {
    "linear_accuracy": "linear accuracy",
    "nc1": "log NC1",
    "within_between_ratio": "log within/between",
    "between_norm": "log between norm",
}


def fitted(path: Path, at: float, kept: Path) -> Fit:
    """Fit the prefix, or read the fit that was kept."""
    if kept.exists():
        return load(kept)
    with Recording(path) as recording:
        end = prefix_end(recording, at)
        grid, until = future_grid(recording, end, None, "recorded"), int(recording.steps[end])
    start = time.perf_counter()
    result = fit(path, until=until, horizon=float(grid.times[-1]), allow_unconverged=True)
    print(kept.stem, result.diagnostics(), f"{time.perf_counter() - start:.0f} s", flush=True)
    result.save(kept)
    return result


def outcome(result: Fit, path: Path) -> dict[str, Any]:
    """Forecast, and keep what a forecast says."""
    start = time.perf_counter()
    try:
        found = continue_fit(result, path).to_json()
    except PredictionError as error:
        return {"failed": str(error)}
    kept = {name: value for name, value in found.items() if name not in ("series", "past")}
    for name in ("start", "predicted", "observed", "scores"):
        kept[name] = {metric: kept[name][metric] for metric in KEY_METRICS}
    return {**kept, "seconds": time.perf_counter() - start}


def better(own: float, rival: float) -> str:
    """Say by how much a score is smaller than another."""
    return f"{1 - own / rival:.0%}" if rival > 0 else "–"


def pit_table(forecasts: list[dict[str, Any]]) -> list[str]:
    """Return how many outcomes lie in each fifth of what was forecast, as lines of Markdown."""
    lines = ["Outcomes by fifths of the forecast (PIT):", "", "| metric | 0–20 % | 20–40 | 40–60 | 60–80 | 80–100 |"]
    lines.append("|---|---|---|---|---|---|")
    for metric, label in KEY_METRICS.items():
        values = [found["scores"][metric]["pit"] for found in forecasts]
        defined = [value for value in values if value is not None and np.isfinite(value)]
        counts = np.histogram(defined, bins=5, range=(0.0, 1.0))[0]
        lines.append(f"| {label} | " + " | ".join(str(count) for count in counts) + " |")
    return lines


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    forecasts = {name: found for name, found in results.items() if "failed" not in found}
    lines = [
        "# Forecasts from a prefix",
        "",
        "Made by `python benchmarks/forecasts.py` (p…: of `make paper`, given by `--recordings`): impact R on the",
        "logits, curve gp, 100 paths to the last record.",
        "CRPS in the unit of the metric; smaller is better, and of a point forecast it is the absolute error.",
        "",
        "| metric | forecasts | CRPS | of persistence | better by | of a line in log t | better by "
        "| of the paper's | better by | 90 % bands hold |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for metric, label in KEY_METRICS.items():
        scores = [found["scores"][metric] for found in forecasts.values()]
        own, persistence, line, paper = (
            float(np.nanmean([np.nan if score[name] is None else score[name] for score in scores]))
            for name in ("crps", "crps_persistence", "crps_log_linear", "crps_paper")
        )
        inside = [score["inside90"] for score in scores]
        lines.append(
            f"| {label} | {len(scores)} | {own:.3f} | {persistence:.3f} | {better(own, persistence)} | {line:.3f} | "
            f"{better(own, line)} | {paper:.3f} | {better(own, paper)} | {sum(inside)} of {len(inside)} |"
        )
    right = [(found["probability_separable"] > 0.5) == found["separable_observed"] for found in forecasts.values()]
    lines += [
        "",
        f"Separation by the last record: the likelier outcome came in {sum(right)} of {len(right)}.",
        "",
        *pit_table(list(forecasts.values())),
        "",
        "| recording, start | metric | at the start | median (90 % band) | recorded | CRPS | of persistence |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in forecasts.items():
        for metric, label in KEY_METRICS.items() if len(forecasts) <= DETAILED else ():
            predicted, score = found["predicted"][metric], found["scores"][metric]
            lines.append(
                f"| {name} | {label.removeprefix('log ')} | {found['start'][metric]:.3g} | {predicted['q50']:.3g} "
                f"({predicted['q05']:.3g} to {predicted['q95']:.3g}) | {found['observed'][metric]:.3g} | "
                f"{score['crps']:.3f} | {score['crps_persistence']:.3f} |"
            )
        lines.append(
            f"| {name} | P(separable) | | {found['probability_separable']:.2f} | "
            f"{'yes' if found['separable_observed'] else 'no'} | | |"
        )
    failed = {name: found["failed"] for name, found in results.items() if "failed" in found}
    if failed:
        lines += ["", "Failed:", "", *(f"- {name}: {reason}" for name, reason in failed.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Forecast all, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "forecasts")
    parser.add_argument("--recordings", type=Path, help="folder of more recordings")
    parser.add_argument("--only", nargs="*", help="names of recordings; all by default")
    parser.add_argument("--at", nargs="*", type=float, default=[0.3, 0.5])
    parser.add_argument("--fit-only", action="store_true", help="keep the fits, and forecast another time")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    target = HERE / "results" / "forecasts.json"
    results: dict[str, dict[str, Any]] = {}
    paths = {name: arguments.work / f"{name}.h5" for name in NAMES if (arguments.data / f"{name}.npz").exists()}
    if arguments.recordings is not None:
        paths |= {path.stem: path for path in sorted(arguments.recordings.glob("p*.h5"))}
    names = list(paths) if arguments.only is None else arguments.only
    if unknown := sorted(set(names) - set(paths)):
        parser.error(f"no recording is called {', '.join(unknown)}")
    for at in arguments.at:
        for name in names:
            path = paths[name]
            if not path.exists():
                recording_from_npz(arguments.data / f"{name}.npz", path)
            result = fitted(path, at, arguments.work / f"{name}_{at:g}.nc")
            if arguments.fit_only:
                continue
            key = f"{name}, {at:.0%}"
            results[key] = outcome(result, path)
            print(key, results[key].get("seconds", results[key].get("failed")), flush=True)
            target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            (HERE / "results" / "forecasts.md").write_text(table(results))
    if results:
        print(table(results))


if __name__ == "__main__":
    main()
