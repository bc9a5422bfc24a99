"""Compare architectures: train each several times, fit every run, and ask what differs beyond the chance of seeds.

Trains networks on scikit-learn's digits (or another built-in data set), records logits in bursts that follow how fast
classes move, fits the LE-SDE to each run, and compares them by `lesde_infer.compare`: γ at equal loss, at half and at
the end of training, its tail index, the step of separation and neural collapse. Beside that stands what quick estimates
say of the same runs, for which nothing is fitted, and with ``--fresh`` of as many others, to see whether orderings that
were settled come out again; three architectures, whose fits are quick, are fitted there as well.

Two controls tell whether the answers can be believed. The linear model: what moves its logits is the Gram matrix of its
inputs, which no training changes, so that α/β, elasticity relative to what all classes share, may change only as
residuals move to other samples. And labels drawn at random on isotropic inputs, where there is no elasticity to find.

    python examples/compare_architectures.py [--dataset digits] [--seeds 5] [--fresh] [--architectures linear mlp …]
        [--jobs N] [--work DIR] [--results DIR] [--short]

A run takes one to two minutes on one core. Recordings and fits stay in the work folder, and what is there is not made
again. ``--short`` is a check that all of it works: two networks, two seeds, 200 steps, curves that are constant; its
numbers mean nothing.
"""

import argparse
import os
from pathlib import Path

from side_by_side import carry_out_all
from study_page import page
from study_runs import ARCHITECTURES, DATASETS, Run, control, record_run

HERE = Path(__file__).parent
DRAWS = (300, 900)  # of each chain, at first (`lesde_infer.fit` takes up to 25 times as many), and if that will not do
FITTED_AGAIN = ("linear", "mlp", "residual")  # with fresh seeds: their fits take a fraction of those of others


def carry_out(run: Run, work: Path) -> str:
    """Train, record and fit a run, as far as that was not done; with more draws where they are too few."""
    import lesde_infer as li

    recording, kept = record_run(run, work), work / f"{run.name}.nc"
    if not kept.exists():
        curve = "constant" if run.quick else "gp"
        for n_draws in DRAWS:
            fit = li.fit(recording, curve=curve, seed=run.seed, parts="rates", n_draws=n_draws, allow_unconverged=True)
            if fit.diagnostics().converged:
                break
        fit.save(kept)
    return run.name


def main() -> None:
    """Carry out what is missing, compare, and write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dataset", choices=DATASETS, default="digits")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each architecture")
    parser.add_argument("--fresh", action="store_true", help="train as many other seeds too, and see what they say")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "architectures")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--short", action="store_true", help="see that it works; the numbers mean nothing")
    arguments = parser.parse_args()
    architectures = ("linear", "mlp") if arguments.short else tuple(dict.fromkeys(arguments.architectures))
    if arguments.seeds < 2 or arguments.jobs < 1 or len(architectures) < 2:
        parser.error("--seeds is at least 2, --jobs at least 1, and --architectures names two or more")
    n_seeds, quick = 2 if arguments.short else arguments.seeds, arguments.short
    studies = [range(n_seeds), *([range(n_seeds, 2 * n_seeds)] if arguments.fresh else [])]
    trained = [
        [Run(arguments.dataset, name, seed, quick) for name in architectures for seed in seeds] for seeds in studies
    ]
    controls = [control(seed, quick=quick) for seed in studies[0]]
    arguments.work.mkdir(parents=True, exist_ok=True)
    carry_out_all(carry_out, [*controls, *trained[0]], arguments.work, arguments.jobs)
    for runs in trained[1:]:
        carry_out_all(record_run, runs, arguments.work, arguments.jobs)
        carry_out_all(
            carry_out, [run for run in runs if run.architecture in FITTED_AGAIN], arguments.work, arguments.jobs
        )
    import lesde_infer as li
    from lesde_infer.plots_comparison import plot_comparison

    recordings = [
        {
            name: [arguments.work / f"{run.name}.h5" for run in runs if run.architecture == name]
            for name in architectures
        }
        for runs in trained
    ]
    fitted = [recordings[0]]
    fitted += [{name: own for name, own in files.items() if name in FITTED_AGAIN} for files in recordings[1:]]
    by_fits = [
        li.compare(files, fit_run=lambda path, _: li.load(path.with_suffix(".nc")))
        for files in fitted
        if len(files) > 1
    ]
    quick = [li.compare(files, route="quick") for files in recordings]
    arguments.results.mkdir(parents=True, exist_ok=True)
    target = arguments.results / f"architectures-{arguments.dataset}.md"
    target.write_text(page(trained, controls, by_fits, quick, arguments.work))
    plot_comparison(by_fits[0]).savefig(target.with_suffix(".png"), dpi=120)
    print(f"results: {target}")


if __name__ == "__main__":
    main()
