"""Fit every recording in every way, and see whether all fits converge without tuning by hand.

Fits each recording of a folder with every impact and every family of curves, with the defaults of `lesde fit`, and
keeps r̂, effective sample sizes, divergences, draws and seconds of each. What a recording does not support (impact L
where features are not logits) is listed with the reason.

    python benchmarks/convergence.py [--data ../shared/data] [--work DIR] [--only NAME …]

Fits already made are not made again: results are kept in the work folder, and written to
benchmarks/results/convergence.json and .md.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from data_tools.convert import recording_from_npz
from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.inference import fit

HERE = Path(__file__).parent
IMPACTS, CURVES = ("R", "L", "I"), ("gp", "power", "constant")
LIMITS = "r̂ ≤ 1.01, bulk and tail effective sample sizes of at least 400, no divergent transition"


def recordings(folder: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """Convert the recordings of a folder, and yield name and path of each; say which archives hold no logits."""
    for source in sorted(folder.glob("*.npz")):
        path = work / f"{source.stem}.h5"
        if not path.exists():
            try:
                recording_from_npz(source, path)
            except InputError as error:
                print(f"left out: {error}", flush=True)
                continue
        yield source.stem, path


def outcome(path: Path, layer: str, impact: str, curve: str) -> dict[str, Any]:
    """Fit, and tell how it went."""
    start = time.perf_counter()
    try:
        result = fit(path, layer=layer, impact=impact, curve=curve, allow_unconverged=True)  # type: ignore[arg-type]
    except InputError as error:
        return {"refused": str(error).removeprefix(f"{path}: ")}
    diagnostics = result.diagnostics()
    return {
        "converged": diagnostics.converged,
        "r_hat_max": diagnostics.r_hat_max,
        "ess_bulk_min": diagnostics.ess_bulk_min,
        "ess_tail_min": diagnostics.ess_tail_min,
        "divergences": diagnostics.divergences,
        "draws": result.posterior.sizes["draw"],
        "seconds": time.perf_counter() - start,
        "problems": list(diagnostics.problems),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    fits = {name: found for name, found in results.items() if "refused" not in found}
    refused = {name: found["refused"] for name, found in results.items() if "refused" in found}
    n_converged = sum(found["converged"] for found in fits.values())
    lines = [
        "# Convergence of fits with the defaults",
        "",
        f"Made by `python benchmarks/convergence.py`. {n_converged} of {len(fits)} fits converged: {LIMITS}.",
        "Chains start with 300 draws and run on where a limit is missed.",
        "",
        "| recording, layer, impact, curve | converged | r̂ | ESS bulk | ESS tail | divergences | draws a chain | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in fits.items():
        lines.append(
            f"| {name} | {'yes' if found['converged'] else '**no**'} | {found['r_hat_max']:.4f} | "
            f"{found['ess_bulk_min']:.0f} | {found['ess_tail_min']:.0f} | {found['divergences']} | {found['draws']} | "
            f"{found['seconds']:.0f} |"
        )
    if refused:
        lines += ["", "Refused:", "", *(f"- {name}: {reason}" for name, reason in refused.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fit all, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "convergence")
    parser.add_argument("--only", nargs="*", default=None, help="names of recordings; all by default")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = arguments.work / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name, path in recordings(arguments.data, arguments.work):
        if arguments.only is not None and name not in arguments.only:
            continue
        with Recording(path) as recording:
            layers = recording.layers
        for layer, impact, curve in product(layers, IMPACTS, CURVES):
            key = f"{name}, {layer}, {impact}, {curve}"
            if key not in results:
                results[key] = outcome(path, layer, impact, curve)
                print(key, results[key], flush=True)
                kept.write_text(json.dumps(results, indent=1, ensure_ascii=False))
    (HERE / "results" / "convergence.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (HERE / "results" / "convergence.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
