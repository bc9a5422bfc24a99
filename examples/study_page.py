"""The study of architectures as a page: means over runs, what is settled, controls, and layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from study_runs import BATCH, STEPS, Run

if TYPE_CHECKING:
    from lesde_infer import Comparison

QUANTITIES = ("gamma_at_loss", "gamma_end", "tail_index", "separation_step", "nc1")


def page(runs: Sequence[Run], controls: Sequence[Run], comparisons: "Sequence[Comparison]", work: Path) -> str:
    """Return the results as Markdown; of the comparisons the second, if any, is of fresh seeds."""
    first = comparisons[0]
    dataset, short = runs[0].dataset, runs[0].quick
    note = "**A check that everything works: these numbers mean nothing.**" if short else "Made by `make study`."
    lines = [
        f"# Architectures on {dataset}: the numbers",
        "",
        note,
        "",
        f"{len(runs)} runs of {STEPS} steps, batches of {BATCH}; impact R on the logits. Means over runs (90 %); sd: "
        "from run to run, on the scale of differences.",
        "",
        *_means(first),
        "",
        *_kernels(runs, work),
        "",
        *_settled(comparisons),
        "",
        *_random_labels(controls, work),
        "",
        *_layers(runs, work),
        "",
        *(f"- {remark}" for remark in first.remarks),
        "",
        f"![Every run, and means over runs](architectures-{dataset}.png)",
    ]
    return "\n".join(lines) + "\n"


def _means(comparison: "Comparison") -> list[str]:
    lines = [
        "| architecture | runs | γ at equal loss | γ at the end | tail index of γ | step of separation "
        "| NC1 at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in comparison.to_json()["architectures"].items():
        cells = " | ".join(_cell(own.get(quantity)) for quantity in QUANTITIES)
        lines.append(f"| {name} | {own['n_runs']} | {cells} |")
    return lines


def _cell(found: dict[str, Any] | None) -> str:
    """Write a mean with its interval, or a dash."""
    if found is None:
        return "–"
    return f"{found['mean']:.3g} ({found['q05']:.3g} to {found['q95']:.3g}), sd {found['between_run_sd']['q50']:.2g}"


def _kernels(runs: Sequence[Run], work: Path) -> list[str]:
    """Return how α/β changes from the first tenth of the intervals to the last, in the mean over runs."""
    import lesde_infer as li
    from lesde_infer.meta_analysis import two_stage

    lines = [
        "How elasticity relative to what all classes share changes, from the first tenth of the records to the last:",
        "",
        "| architecture | α/β, first tenth | last tenth | change (90 %) | P(it rises) |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.architecture for run in runs):
        ends, changes = [], []
        for run in runs:
            fit = li.load(work / f"{run.name}.nc")
            if run.architecture != name or not fit.diagnostics().converged:
                continue
            posterior = fit.posterior.to_dataset()
            tenth = max(posterior.sizes["time"] // 10, 1)
            log_ratios = [
                np.log(
                    np.maximum(posterior["alpha"].isel(time=end).mean("time").to_numpy().ravel(), 1e-300)
                    / np.maximum(posterior["beta"].isel(time=end).mean("time").to_numpy().ravel(), 1e-300)
                )
                for end in (slice(0, tenth), slice(-tenth, None))
            ]
            ends.append(np.exp([np.median(ratio) for ratio in log_ratios]))
            changes.append((np.mean(log_ratios[1] - log_ratios[0]), np.std(log_ratios[1] - log_ratios[0])))
        if not ends:
            continue
        start, stop = np.median(ends, axis=0)
        values, errors = np.transpose(changes)
        factor = np.exp(two_stage(values, errors, 0.0, 0).mean)
        low, median, high = np.quantile(factor, [0.05, 0.5, 0.95])
        lines.append(
            f"| {name} | {start:.2f} | {stop:.2f} | × {median:.2f} ({low:.2f} to {high:.2f}) "
            f"| {np.mean(factor > 1):.2f} |"
        )
    return lines


def _settled(comparisons: "Sequence[Comparison]") -> list[str]:
    """Return the differences that are settled, and what fresh seeds say of them."""
    contrasts = comparisons[0].contrasts
    settled = [contrast for contrast in contrasts if contrast.verdict != "open"]
    fresh = {(own.a, own.b, own.quantity): own for comparison in comparisons[1:] for own in comparison.contrasts}
    lines = [
        f"Of {len(contrasts)} differences {len(settled)} are settled:",
        "",
        "| a − b | quantity | difference (90 %) | verdict | with fresh seeds |",
        "|---|---|---|---|---|",
    ]
    for found in settled:
        again = fresh.get((found.a, found.b, found.quantity))
        says = "–" if again is None else f"{again.mean:.2f} ({again.q05:.2f} to {again.q95:.2f}), {_words(again)}"
        lines.append(
            f"| {found.a} − {found.b} | {found.quantity} | {found.mean:.2f} ({found.q05:.2f} to {found.q95:.2f}) | "
            f"{_words(found)} | {says} |"
        )
    return lines


def _words(contrast: Any) -> str:
    """Write a verdict with the names of the architectures."""
    return {"a greater": f"{contrast.a} greater", "b greater": f"{contrast.b} greater"}.get(
        contrast.verdict, contrast.verdict
    )


def _random_labels(controls: Sequence[Run], work: Path) -> list[str]:
    """Return what is found where there is no elasticity."""
    import lesde_infer as li

    lines = [
        "Labels drawn at random, probe samples that are never trained on:",
        "",
        "| run | γ at the end (90 %) | P(γ > 0) | γ identified |",
        "|---|---|---|---|",
    ]
    for run in controls:
        fit = li.load(work / f"{run.name}.nc")
        verdict = fit.verdict()
        flagged = any(
            flag.name == "gamma_not_identified" and flag.stop_step >= int(fit.steps[-1]) for flag in fit.flags
        )
        doubt = "" if fit.diagnostics().converged else " (did not converge)"
        lines.append(
            f"| seed {run.seed}{doubt} | {verdict.gamma_end.mean:.2g} ({verdict.gamma_end.q05:.2g} to "
            f"{verdict.gamma_end.q95:.2g}) | {verdict.probability_gamma_positive:.2f} | {'no' if flagged else 'yes'} |"
        )
    return lines


def _layers(runs: Sequence[Run], work: Path) -> list[str]:
    """Return how separation falls from layer to layer at the end (He and Su 2023)."""
    from data_tools import Recording
    from lesde_infer.layer_separation import layer_separation

    lines = [
        "Separation fuzziness from layer to layer at the end (median over runs): the factor of a layer, and how "
        "straight its logarithm falls:",
        "",
        "| architecture | parts | factor a part | correlation |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.architecture for run in runs):
        found = []
        for run in runs:
            if run.architecture == name:
                with Recording(work / f"{run.name}-layers.h5") as recording:
                    last = {layer: recording.features(layer)[recording.n_records - 1] for layer in recording.layers}
                    found.append(layer_separation(last, recording.labels))
        ratio, correlation = np.nanmedian([[own.decay_ratio, own.correlation] for own in found], axis=0)
        n_layers = len(found[0].layers)
        if n_layers > 1:
            lines.append(f"| {name} | {n_layers} | {ratio:.2f} | {correlation:.2f} |")
    return lines
