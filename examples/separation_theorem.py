"""The separation theorem as an experiment: γ(t) = c t^−r, with noise that stays or fades.

For each exponent r of the separation rate and q of the noise, σ² ~ t^−q, prints what the theory says happens in the
end, and how often classes of 50 samples are separable at times up to 10²⁴ (`lesde_infer.separation_theorem`).

    python examples/separation_theorem.py [--rate 3] [--runs 200] [--seed 0] [--plot theorem.png] [--force]
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np

from data_tools import InputError
from lesde_infer.separation_theorem import PowerLaws, probability_of_separation

EXPONENTS, NOISE_EXPONENTS = (0.5, 0.9, 1.1, 1.5), (0.0, 0.5, 1.5)
TIMES = 10.0 ** np.array([0, 2, 4, 6, 12, 18, 24])


def main() -> None:
    """Run the experiment, print it, and draw it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=3.0, help="c: γ at time 1")
    parser.add_argument("--runs", type=int, default=200, help="runs of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="picture to make")
    parser.add_argument("--force", action="store_true", help="replace the picture")
    arguments = parser.parse_args()
    if arguments.plot and arguments.plot.exists() and not arguments.force:
        parser.error(f"{arguments.plot}: exists; give --force to replace it")
    print(f"share of {arguments.runs} runs in which all classes are separable, at time")
    print(f"{'r':>4} {'q':>4}  " + " ".join(f"{f'10^{np.log10(time):.0f}':>6}" for time in TIMES) + "  in the end")
    shares = {}
    try:
        for r, q in product(EXPONENTS, NOISE_EXPONENTS):
            laws = PowerLaws(arguments.rate, r, q)
            found = [
                probability_of_separation(laws, float(time), n_runs=arguments.runs, seed=arguments.seed)[0]
                for time in TIMES
            ]
            shares[r, q] = found
            print(f"{r:4} {q:4}  " + " ".join(f"{share:6.2f}" for share in found) + f"  {laws.limit}", flush=True)
    except InputError as error:
        parser.error(str(error))
    if arguments.plot:
        draw(shares, arguments.plot)


def draw(shares: dict[tuple[float, float], list[float]], path: Path) -> None:
    """Draw the shares over time, a panel for each noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(NOISE_EXPONENTS), 3.0), layout="constrained")
    panels = figure.subplots(1, len(NOISE_EXPONENTS), sharey=True)
    for panel, q in zip(panels, NOISE_EXPONENTS, strict=True):
        for r, marker in zip(EXPONENTS, "os^D", strict=True):
            panel.plot(TIMES, shares[r, q], marker=marker, markersize=4, label=f"r = {r}")
        panel.set(xscale="log", ylim=(-0.03, 1.03), xlabel="time", title=rf"$\sigma^2 \sim t^{{-{q}}}$")
    panels[0].set_ylabel("share of runs separable")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
