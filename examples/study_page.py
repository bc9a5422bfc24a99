"""The study of architectures as a page: means over runs, what is settled, controls, and layers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from study_runs import BATCH, Run

if TYPE_CHECKING:
    from lesde_infer import Comparison, Fit
    from lesde_infer.contrasts import Contrast

QUANTITIES = ("gamma_at_loss", "gamma_end", "tail_index", "separation_step", "nc1")


def page(
    studies: "Sequence[Sequence[Run]]",
    controls: Sequence[Run],
    by_fits: "Sequence[Comparison]",
    quick: "Sequence[Comparison]",
    work: Path,
) -> str:
    """Return the results as Markdown; the second study and comparisons, if any, are of fresh seeds."""
    runs = [run for study in studies for run in study]
    dataset, short = runs[0].dataset, runs[0].quick
    note = "**A check that everything works: these numbers mean nothing.**" if short else "Made by `make study`."
    lines = [
        f"# Architectures on {dataset}: the numbers",
        "",
        note,
        "",
        f"{len(studies[0])} runs of {runs[0].steps} steps, batches of {BATCH}; impact R on the logits.",
        f"Means over runs (90 %) and sd from run to run, on the scale of differences.{_equal_loss(by_fits[0])}",
        "",
        *_means(by_fits[0]),
        "",
        *(
            ["The same of fresh seeds, as far as they were fitted:", "", *_means(by_fits[1]), ""]
            if len(by_fits) > 1
            else []
        ),
        *_kernels([run for run in runs if (work / f"{run.name}.nc").exists()], work),
        "",
        *_settled(by_fits, quick),
        "",
        *_random_labels(controls, work),
        "",
        *_layers(runs, work),
        "",
        *_remarks(by_fits, work),
        "",
        f"![Every run, and means over runs](architectures-{dataset}.png)",
    ]
    return "\n".join(lines) + "\n"


def _equal_loss(comparison: "Comparison") -> str:
    level = comparison.loss_level
    return "" if level is None else f" γ at equal loss is that at {level:.3g} nats."


def _remarks(by_fits: "Sequence[Comparison]", work: Path) -> list[str]:
    """Return what is to be kept in mind of each comparison."""
    prefixes = ("", "fresh seeds: ")
    return [
        f"- {prefix}{remark.replace(f'{work}{os.sep}', '')}"
        for prefix, comparison in zip(prefixes, by_fits, strict=False)
        for remark in comparison.remarks
    ]


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
        "How elasticity relative to what all classes share changes, from the first tenth of the records to the last, "
        "in runs that tell α and β at both ends to be positive:",
        "",
        "| architecture | runs that tell | α/β, first tenth | last tenth | change (90 %) | P(it rises) |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.architecture for run in runs):
        ends, changes = [], []
        for run in runs:
            fit = li.load(work / f"{run.name}.nc") if run.architecture == name else None
            log_ratios = None if fit is None or not fit.diagnostics().converged else _log_ratios(fit)
            if log_ratios is not None:
                change = log_ratios[1] - log_ratios[0]
                ends.append(np.exp(np.median(log_ratios, axis=1)))
                changes.append((np.mean(change), np.std(change)))
        if not ends:
            lines.append(f"| {name} | 0 | – | – | – | – |")
            continue
        start, stop = np.median(ends, axis=0)
        values, errors = np.transpose(changes)
        factor = np.exp(two_stage(values, errors, 0.0, 0).mean)
        low, median, high = np.quantile(factor, [0.05, 0.5, 0.95])
        lines.append(
            f"| {name} | {len(ends)} | {start:.2f} | {stop:.2f} | × {median:.2f} ({low:.2f} to {high:.2f}) "
            f"| {np.mean(factor > 1):.2f} |"
        )
    return lines


def _log_ratios(fit: "Fit") -> np.ndarray | None:
    """Return draws of log α/β in the first and in the last tenth; None where α or β may be negative there."""
    posterior = fit.posterior.to_dataset()
    tenth = max(posterior.sizes["time"] // 10, 1)
    found = []
    for end in (slice(0, tenth), slice(-tenth, None)):
        alpha, beta = (posterior[name].isel(time=end).mean("time").to_numpy().ravel() for name in ("alpha", "beta"))
        if min(np.quantile(alpha, 0.05), np.quantile(beta, 0.05)) <= 0.0:
            return None
        found.append(np.log(np.maximum(alpha, 1e-300)) - np.log(np.maximum(beta, 1e-300)))
    return np.array(found)


def _settled(by_fits: "Sequence[Comparison]", quick: "Sequence[Comparison]") -> list[str]:
    """Return the differences that fits settle, and what fresh seeds and quick estimates say of them."""
    first, others = by_fits[0], [*by_fits[1:], *quick]
    settled = [contrast for contrast in first.contrasts if contrast.verdict != "open"]
    headings = [
        *["fits, fresh seeds"][: len(by_fits) - 1],
        *["quick, same runs", "quick, fresh seeds"][: len(quick)],
    ]
    found_there = [{_key(own): own for own in comparison.contrasts} for comparison in others]
    lines = [
        f"Of {len(first.contrasts)} differences {len(settled)} are settled by fits:",
        "",
        f"| a − b | quantity | difference (90 %) | verdict | {' | '.join(headings)} |",
        f"|---|---|---|---|{'---|' * len(headings)}",
    ]
    for found in settled:
        cells = [_cell_of(other.get(_key(found))) for other in found_there]
        lines.append(
            f"| {found.a} − {found.b} | {found.quantity} | {found.mean:.2f} ({found.q05:.2f} to {found.q95:.2f}) | "
            f"{_words(found)} | {' | '.join(cells)} |"
        )
    return [*lines, "", *_repeated("Fits", by_fits), *_repeated("Quick estimates", quick)]


def _repeated(who: str, comparisons: "Sequence[Comparison]") -> list[str]:
    """Return how often fresh seeds repeat what was settled."""
    if len(comparisons) < 2:
        return []
    fresh = {_key(own): own for own in comparisons[1].contrasts}
    ordered = [own for own in comparisons[0].contrasts if own.verdict in ("a greater", "b greater")]
    told = [(own, fresh[_key(own)]) for own in ordered if _key(own) in fresh]
    same = sum(again.verdict == own.verdict for own, again in told)
    against = sum({again.verdict, own.verdict} == {"a greater", "b greater"} for own, again in told)
    side = sum((again.probability_greater > 0.5) == (own.verdict == "a greater") for own, again in told)
    return [
        f"{who} order {len(ordered)} differences of the first seeds. Of {len(told)} of these that fresh seeds tell as "
        f"well, {same} are settled alike, {against} the other way, and {side} lie on the same side.",
        "",
    ]


def _key(contrast: "Contrast") -> tuple[str, str, str]:
    return contrast.a, contrast.b, contrast.quantity


def _cell_of(contrast: "Contrast | None") -> str:
    """Write a difference and its verdict, or a dash."""
    if contrast is None:
        return "–"
    return f"{contrast.mean:.2f} ({contrast.q05:.2f} to {contrast.q95:.2f}), {_words(contrast)}"


def _words(contrast: "Contrast") -> str:
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
        n_layers = len(found[0].layers)
        if n_layers > 2:
            ratio, correlation = np.nanmedian([[own.decay_ratio, own.correlation] for own in found], axis=0)
            lines.append(f"| {name} | {n_layers} | {ratio:.2f} | {correlation:.2f} |")
    return lines
