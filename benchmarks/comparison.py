"""Ask how often equal architectures are called different, and how large a difference so many seeds show.

Simulates studies of two architectures: runs scatter around the mean of their architecture by the chance of seeds, and
are told with an error, both as found on real runs. Each study is judged as `lesde compare` judges (two-stage route);
verdicts are counted for equal architectures, and for γ that is 10, 25, 50 and 100 % larger. The chance of seeds is the
same in all studies of a row, or drawn from its prior in each: then intervals must hold the truth as often as they say,
and where it is small, and few seeds tell it, they hold it more often.

    python benchmarks/comparison.py [--studies 1000] [--json FILE]

What is simulated are the numbers that fits give, not the fits: whether these are calibrated is asked by
`lesde calibrate`. Takes a minute; results go to benchmarks/results/comparison.json and .md.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lesde_infer.comparison import Quantity, contrast
from lesde_infer.meta_analysis import CHANCE_DEGREES, CHANCE_SCALE, GroupPosterior, two_stage

HERE = Path(__file__).parent
SEEDS = (3, 5, 10)
CHANCES = (0.1, 0.2, 0.5, None)  # None: drawn from its prior
ERROR = 0.15
DIFFERENCES = (0.0, 0.1, 0.25, 0.5, 1.0)
QUANTITY = Quantity("gamma_end", "asinh", 1.0)


def architecture(mean: float, chance: float, n_runs: int, rng: np.random.Generator) -> GroupPosterior:
    """Simulate the runs of an architecture, and put them together."""
    values = mean + chance * rng.normal(size=n_runs) + ERROR * rng.normal(size=n_runs)
    return two_stage(values, np.full(n_runs, ERROR), 0.0, int(rng.integers(2**31)))


def chances(chance: float | None, rng: np.random.Generator) -> Float[np.ndarray, " architecture"]:
    """Return the chance of seeds of both architectures."""
    drawn = CHANCE_SCALE * np.abs(rng.standard_t(CHANCE_DEGREES, size=2))
    return np.asarray(drawn if chance is None else np.full(2, chance))


def studies(n_runs: int, chance: float | None, difference: float, n_studies: int) -> dict[str, float]:
    """Return the shares of verdicts, and how often the 90 % interval holds the truth."""
    rng = np.random.default_rng([n_runs, round(100 * (chance or 0.0)), round(100 * difference)])
    truth = float(np.log1p(difference))
    verdicts: list[str] = []
    covered = 0
    for _ in range(n_studies):
        of_a, of_b = chances(chance, rng)
        found = contrast(
            "a", "b", QUANTITY, architecture(truth, of_a, n_runs, rng), architecture(0.0, of_b, n_runs, rng)
        )
        verdicts.append(found.verdict)
        covered += found.q05 <= truth <= found.q95
    return {
        "different": float(np.mean([verdict in ("a greater", "b greater") for verdict in verdicts])),
        "equivalent": float(np.mean([verdict == "equivalent" for verdict in verdicts])),
        "coverage90": covered / n_studies,
    }


def table(results: list[dict[str, float]], n_studies: int) -> str:
    """Return the results as Markdown."""
    lines = [
        "# What a comparison can show",
        "",
        f"Made by `python benchmarks/comparison.py`: {n_studies} simulated studies a row, two architectures with so "
        f"many seeds each, runs told to ± {ERROR:.0%}. Share of studies that call the two different, by how much "
        "larger γ of one is; coverage of the 90 % interval of the difference, least over differences.",
        "",
        "| seeds each | from seed to seed | equal | 10 % | 25 % | 50 % | 100 % | equal, called equivalent | coverage |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for n_runs, chance in product(SEEDS, CHANCES):
        own = [row for row in results if row["seeds"] == n_runs and row["chance"] == chance]
        shares = " | ".join(f"{row['different']:.0%}" for row in own)
        coverage = min(row["coverage90"] for row in own)
        name = "from its prior" if chance is None else f"{chance:.0%}"
        lines.append(f"| {n_runs} | {name} | {shares} | {own[0]['equivalent']:.0%} | {coverage:.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate all studies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=HERE / "results" / "comparison.json")
    arguments = parser.parse_args()
    results = [
        {"seeds": n_runs, "chance": chance, "difference": difference}
        | studies(n_runs, chance, difference, arguments.studies)
        for n_runs, chance, difference in product(SEEDS, CHANCES, DIFFERENCES)
    ]
    arguments.json.write_text(
        json.dumps({"error": ERROR, "studies": arguments.studies, "rows": results}, indent=1) + "\n"
    )
    arguments.json.with_suffix(".md").write_text(table(results, arguments.studies))
    print(table(results, arguments.studies))


if __name__ == "__main__":
    main()
