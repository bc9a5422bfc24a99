"""Compare architectures: train each several times, fit every run, and ask what differs beyond the chance of seeds.

Trains networks on scikit-learn's digits (or another built-in data set), records logits in bursts, fits the LE-SDE to
each run, and compares them by `lesde_infer.compare`: γ at equal loss, at half and at the end of training, its tail
index, the step of separation and neural collapse. Beside that it tells how α/β, elasticity's size relative to what all
classes share, changes from the first tenth of a run to the last. The linear model is a control: what moves its logits
is the Gram matrix of its inputs, which no training changes, so that its elasticity changes only as residuals move to
other samples.

    python examples/compare_architectures.py [--dataset digits] [--seeds 5] [--architectures linear mlp …] [--jobs N]
        [--work DIR] [--results DIR] [--short]

A run takes some three minutes on one core, most of it the fit. Recordings and fits stay in the work folder, and what
is there is not made again. ``--short`` is a check that all of it works: two networks, two seeds, 200 steps, curves that
are constant; its numbers mean nothing.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from side_by_side import carry_out_all

if TYPE_CHECKING:
    from lesde_infer import Comparison

HERE = Path(__file__).parent
ARCHITECTURES = ("linear", "mlp", "cnn", "cnn_batchnorm", "lenet", "residual", "transformer")
DATASETS = ("digits", "geomnist", "mnist5k")
LEARNING_RATES = {"linear": 0.05, "mlp": 0.05, "cnn": 0.05, "cnn_batchnorm": 0.05, "lenet": 0.1}
OTHER_RATE = 0.05
STEPS, EVERY, BATCH, PER_CLASS = 3_000, 40, 32, 50


@dataclass(frozen=True)
class Run:
    """A training; ``quick`` is that of the check."""

    dataset: str
    architecture: str
    seed: int
    quick: bool = False

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{'quick-' if self.quick else ''}{self.dataset}-{self.architecture}-seed{self.seed}"


def carry_out(run: Run, work: Path) -> str:
    """Train, record and fit a run, as far as that was not done."""
    import lesde_infer as li
    from data_tools.experiments import ExperimentConfig, run_experiment

    recording, kept = work / f"{run.name}.h5", work / f"{run.name}.nc"
    if not recording.exists():
        config = ExperimentConfig(
            dataset=run.dataset,  # type: ignore[arg-type]
            architecture=run.architecture,  # type: ignore[arg-type]
            seed=run.seed,
            steps=200 if run.quick else STEPS,
            every=20 if run.quick else EVERY,
            burst=2,
            batch_size=BATCH,
            lr=LEARNING_RATES.get(run.architecture, OTHER_RATE),
            train_per_class=100,
            probe_per_class=10 if run.quick else PER_CLASS,
            validation_per_class=50,
            n_classes=3 if run.quick else None,
        )
        unfinished = work / f"unfinished-{run.name}.h5"
        run_experiment(config, unfinished, force=True)
        unfinished.rename(recording)
    if not kept.exists():
        curve = "constant" if run.quick else "gp"
        li.fit(recording, curve=curve, seed=run.seed, allow_unconverged=True).save(kept)
    return run.name


def kernel_change(kept: Path) -> tuple[float, float]:
    """Return the posterior median of α/β over the first and over the last tenth of a run."""
    import lesde_infer as li

    posterior = li.load(kept).posterior.to_dataset()
    tenth = max(posterior.sizes["time"] // 10, 1)
    ends = (slice(0, tenth), slice(-tenth, None))
    first, last = (
        float(np.median(posterior["alpha"].isel(time=end).mean("time") / posterior["beta"].isel(time=end).mean("time")))
        for end in ends
    )
    return first, last


def page(runs: Sequence[Run], work: Path, comparison: "Comparison", *, short: bool) -> str:
    """Return the results as Markdown."""
    import lesde_infer as li

    summary: dict[str, Any] = comparison.to_json()
    unconverged = [run.name for run in runs if not li.load(work / f"{run.name}.nc").diagnostics().converged]
    lines = [
        f"# Architectures on {runs[0].dataset}",
        "",
        "**A check that everything works: these numbers mean nothing.**" if short else "Made by `make study`.",
        "",
        f"{len(runs)} runs of {STEPS} steps, batches of {BATCH}; impact R on the logits. Of the fits "
        f"{len(unconverged)} missed a limit of convergence{': ' + ', '.join(unconverged) if unconverged else ''}.",
        "",
        "Means over runs (90 %); sd: from run to run, on the scale of differences.",
        "",
        "| architecture | runs | γ at equal loss | γ at the end | tail index of γ | step of separation "
        "| NC1 at the end | α/β, first tenth → last |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, own in summary["architectures"].items():
        changes = [kernel_change(work / f"{run.name}.nc") for run in runs if run.architecture == name]
        first, last = np.median(changes, axis=0)
        quantities = ("gamma_at_loss", "gamma_end", "tail_index", "separation_step", "nc1")
        cells = " | ".join(cell(own.get(quantity)) for quantity in quantities)
        lines.append(f"| {name} | {own['n_runs']} | {cells} | {first:.2f} → {last:.2f} |")
    settled = [contrast for contrast in summary["contrasts"] if contrast["verdict"] != "open"]
    lines += [
        "",
        f"Of {len(summary['contrasts'])} differences {len(settled)} are settled:",
        "",
        "| a − b | quantity | difference (90 %) | verdict |",
        "|---|---|---|---|",
        *(
            f"| {found['a']} − {found['b']} | {found['quantity']} | {found['mean']:.2f} ({found['q05']:.2f} to "
            f"{found['q95']:.2f}) | {found['verdict']} |"
            for found in settled
        ),
        "",
        *(f"- {remark}" for remark in comparison.remarks),
        "",
        f"![Every run, and means over runs](architectures-{runs[0].dataset}.png)",
    ]
    return "\n".join(lines) + "\n"


def cell(found: dict[str, Any] | None) -> str:
    """Write a mean with its interval, or a dash."""
    if found is None:
        return "–"
    return f"{found['mean']:.3g} ({found['q05']:.3g} to {found['q95']:.3g}), sd {found['between_run_sd']['q50']:.2g}"


def main() -> None:
    """Carry out what is missing, compare, and write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dataset", choices=DATASETS, default="digits")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each architecture")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "architectures")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--short", action="store_true", help="see that it works; the numbers mean nothing")
    arguments = parser.parse_args()
    architectures = ("linear", "mlp") if arguments.short else tuple(dict.fromkeys(arguments.architectures))
    if arguments.seeds < 1 or arguments.jobs < 1 or len(architectures) < 2:
        parser.error("--seeds and --jobs are at least 1, and --architectures names two or more")
    seeds = range(2 if arguments.short else arguments.seeds)
    runs = [Run(arguments.dataset, name, seed, arguments.short) for name in architectures for seed in seeds]
    arguments.work.mkdir(parents=True, exist_ok=True)
    carry_out_all(carry_out, runs, arguments.work, arguments.jobs)
    import lesde_infer as li
    from lesde_infer.plots_comparison import plot_comparison

    comparison = li.compare(
        {
            name: [arguments.work / f"{run.name}.h5" for run in runs if run.architecture == name]
            for name in architectures
        },
        fit_run=lambda path, _: li.load(path.with_suffix(".nc")),
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    target = arguments.results / f"architectures-{arguments.dataset}.md"
    target.write_text(page(runs, arguments.work, comparison, short=arguments.short))
    plot_comparison(comparison).savefig(target.with_suffix(".png"), dpi=120)
    print(f"results: {target}")


if __name__ == "__main__":
    main()
