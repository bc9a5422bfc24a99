"""Time a fit, cold and warm, beside the same model without collapsed statistics.

Simulates a run of 200 intervals and 300 samples (K = p = 3, impact R), fits it twice in one process (the first fit
compiles or reads compiled programs from the cache, the second does neither), and then samples the class-mean part of
the same model, with constant curves, written per sample in plain NumPy: every interval evaluates the softmax of every
sample. That sampler is random-walk Metropolis with a tuned step, stopped after a bounded time on a subset of intervals.

    python benchmarks/fit_speed.py [--seconds 20] [--intervals 40] [--json FILE]

Prints JSON. Times on a shared machine scatter; the ratios are of one process at one time.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from jaxtyping import Float, Int
from scipy.special import gammaln

from data_tools.recording import Recording
from lesde_infer.fit_result import Fit
from lesde_infer.inference import fit
from lesde_infer.simulation import simulate
from lesde_infer.statistics import compute_statistics

K, PER_CLASS, INTERVALS, EVERY = 3, 100, 200, 50
QUANTITY = "gamma at the end of the record"


def simulated_run(path: Path) -> None:
    """Write the run that is fitted."""
    simulate(
        path,
        n_classes=K,
        samples_per_class=PER_CLASS,
        steps=np.arange(0, (INTERVALS + 1) * EVERY, EVERY),
        alpha=lambda t: 2e-3 * (1 + t / 5000) ** -0.5,
        beta=-5e-4,
        kappa=1e-4,
        global_scale=1e-3,
        class_scale=5e-4,
        individual_scale=1e-3,
        impact="R",
        dof=4.0,
        seed=1,
    ).close()


def effective_size(draws: Float[np.ndarray, "chain draw"]) -> float:
    """Bulk effective sample size."""
    return float(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="bulk"))


def describe(result: Fit) -> dict[str, float]:
    """Return the figures of one fit."""
    gradients = result.data["sample_stats"]["n_steps_by_submodel"].to_numpy()
    ess = effective_size(result.posterior["gamma"].isel(time=-1).to_numpy())
    seconds = float(result.data.attrs["wall_seconds"])
    return {
        "wall_seconds": seconds,
        "compile_seconds": float(result.data.attrs["compile_seconds"]),
        "gradients_per_draw": float(gradients.mean()),
        "ess_bulk": ess,
        "ess_per_second": ess / seconds,
        "r_hat_max": result.diagnostics().r_hat_max,
        "converged": result.diagnostics().converged,
    }


@dataclass
class PerSampleModel:
    """Contrasts of class means under R with constant γ, σ and ν, from all samples at every evaluation."""

    features: Float[np.ndarray, "record sample class_"]
    labels: Int[np.ndarray, " sample"]

    def log_density(self, theta: Float[np.ndarray, " 3"]) -> float:
        """Log density of γ/10⁻³, log σ and log ν with flat priors."""
        gamma, sigma, nu = theta[0] * 1e-3, np.exp(theta[1]), np.exp(theta[2])
        d, total = (K - 1) * K, 0.0
        for before, after in zip(self.features[:-1], self.features[1:], strict=True):
            powers = np.exp(before - before.max(axis=1, keepdims=True))
            softmax = powers / powers.sum(axis=1, keepdims=True)
            residual = np.stack([(np.eye(K)[k] - softmax[self.labels == k]).mean(axis=0) for k in range(K)])
            curvature = np.zeros((K, K))
            for k in range(K):
                own = softmax[self.labels == k]
                curvature += (np.diag(own.mean(axis=0)) - own.T @ own / len(own)) / K
            change = np.stack([(after - before)[self.labels == k].mean(axis=0) for k in range(K)])
            eigenvalues, vectors = np.linalg.eigh(curvature)
            push = gamma * EVERY / K
            z = np.maximum(-push * eigenvalues, -50.0)
            response = push * np.where(np.abs(z) < 1e-8, 1.0, np.expm1(z) / np.where(z == 0, 1.0, z))
            drift = (residual - residual.mean(axis=0)) @ vectors * response @ vectors.T
            misfit = ((change - change.mean(axis=0) - drift) ** 2).sum()
            scale = nu * sigma**2 * EVERY
            total += gammaln((nu + d) / 2) - gammaln(nu / 2) - d / 2 * np.log(scale)
            total -= (nu + d) / 2 * np.log1p(misfit / scale)
        return float(total)

    def metropolis(self, seconds: float) -> dict[str, float]:
        """Run random-walk Metropolis for a bounded time, after spending a third of it on the step size."""
        rng = np.random.default_rng(0)
        theta = np.array([2.0, np.log(5e-4), np.log(4.0)])
        density, step, kept, evaluations = self.log_density(theta), 0.1, [], 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            proposal = theta + step * np.array([1.0, 0.3, 1.0]) * rng.normal(size=3)
            proposed = self.log_density(proposal)
            evaluations += 1
            accepted = np.log(rng.uniform()) < proposed - density
            if accepted:
                theta, density = proposal, proposed
            if elapsed < seconds / 3:
                step *= np.exp((float(accepted) - 0.3) / np.sqrt(evaluations))
            else:
                kept.append(theta[0])
        halves = len(kept) // 2
        ess = effective_size(np.array(kept[: 2 * halves]).reshape(2, halves))
        return {
            "intervals": len(self.features) - 1,
            "samples": len(self.labels),
            "seconds_per_log_density": elapsed / evaluations,
            "evaluations": evaluations,
            "ess_bulk": ess,
            "ess_per_second": ess / elapsed,
        }


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20.0, help="time given to the per-sample sampler")
    parser.add_argument("--intervals", type=int, default=40, help="intervals given to the per-sample sampler")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"quantity": QUANTITY, "intervals": INTERVALS, "samples": K * PER_CLASS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        simulated_run(path)
        for name in ("cold", "warm"):
            result[name] = describe(fit(path, impact="R", curve="gp", seed=0))
        with Recording(path) as recording:
            start = time.perf_counter()
            compute_statistics(recording, "logits", "R")
            result["statistics_seconds"] = time.perf_counter() - start
            features = np.asarray(recording.features("logits")[: arguments.intervals + 1], dtype=np.float64)
            labels = recording.labels
    result["per_sample"] = PerSampleModel(features, labels).metropolis(arguments.seconds)
    # The plain sampler sees fewer intervals, and its cost is linear in them.
    share = result["per_sample"]["intervals"] / INTERVALS
    result["ess_per_second_ratio"] = result["warm"]["ess_per_second"] / (result["per_sample"]["ess_per_second"] * share)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
