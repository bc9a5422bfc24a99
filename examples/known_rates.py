"""Simulate a run whose elasticity is known, and see whether the fit gives it back.

The separation rate falls like a power of time, γ(t) = 0.02 (1 + t/500)^−0.5 per step. The fit is not told so: its
rates are free curves. Prints, at five times, the true rate beside the posterior's median and 90 % interval.

    python examples/known_rates.py [--out run.h5] [--seed 0] [--force]
"""

import argparse
from pathlib import Path

import numpy as np

import lesde_infer as li


def gamma(t: float) -> float:
    """Return the true separation rate, per step."""
    return 0.02 * (1 + t / 500) ** -0.5


def main() -> None:
    """Simulate, fit, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("known-rates.h5"), help="recording to make")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation and of the fit")
    parser.add_argument("--curve", choices=["gp", "power", "constant"], default="gp", help="how rates change in time")
    parser.add_argument("--force", action="store_true", help="replace the recording")
    arguments = parser.parse_args()
    li.simulate(
        arguments.out,
        n_classes=3,
        samples_per_class=[60, 80, 100],
        steps=np.arange(0, 3001, 30),
        alpha=lambda t: 0.75 * gamma(t),
        beta=lambda t: -0.25 * gamma(t),
        kappa=1e-4,
        global_scale=2e-3,
        class_scale=2e-3,
        individual_scale=2e-3,
        impact="R",
        dof=4.0,
        seed=arguments.seed,
        force=arguments.force,
    ).close()
    fit = li.fit(arguments.out, impact="R", curve=arguments.curve, seed=arguments.seed)
    print(fit.verdict().sentence)
    draws = fit.posterior["gamma"].stack(draw_=("chain", "draw"))
    print("  step   true    median  90 % interval")
    for time in np.linspace(300, 2700, 5):
        low, median, high = np.quantile(draws.sel(time=time, method="nearest"), [0.05, 0.5, 0.95])
        print(f"{time:6.0f}  {gamma(time):.4f}   {median:.4f}  {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
