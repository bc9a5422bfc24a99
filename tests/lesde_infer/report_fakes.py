"""Fits and checks with made-up numbers, shaped as the real ones, for plots and the report."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import xarray as xr

CHAINS, DRAWS, TIMES = 4, 100, 60
METRICS = ("linear_separability", "linear_accuracy", "nc1", "between_norm")


@dataclass(frozen=True)
class FakeSettings:
    layer: str = "fc3"
    impact: str = "R"
    elasticity: str = "homogeneous"
    curve: str = "gp"
    group: str = "labels"
    seed: int = 0
    until: int | None = None


@dataclass(frozen=True)
class FakeFit:
    posterior: xr.Dataset
    data: xr.DataTree
    settings: FakeSettings = field(default_factory=FakeSettings)
    provenance: dict[str, str] = field(default_factory=lambda: {"recording": "run.h5", "sha256": "ab" * 32})
    flags: list = field(default_factory=list)
    converged: bool = True

    def require_all_parts(self, purpose):
        pass

    def diagnostics(self):
        return SimpleNamespace(
            r_hat_max=1.004 if self.converged else 1.87,
            ess_bulk_min=812.0,
            ess_tail_min=640.0,
            divergences=0 if self.converged else 31,
            converged=self.converged,
            problems=[] if self.converged else ["r-hat of gamma is above 1.01", "31 divergent transitions"],
        )

    def verdict(self):
        end = self.posterior["gamma"].isel(time=-1).to_numpy().ravel()
        tail = self.posterior["tail_index"].to_numpy().ravel()
        return SimpleNamespace(
            probability_gamma_positive=float((end > 0).mean()),
            gamma_end=interval(end),
            tail_index=interval(tail),
            probability_separable=0.975,
            phase_probabilities={"separates": 0.96, "borderline": 0.03, "does not separate": 0.01},
            sentence="The network is locally elastic, and its classes separate.",
        )


def interval(draws):
    low, high = np.quantile(draws, [0.05, 0.95])
    return SimpleNamespace(mean=float(draws.mean()), q05=float(low), q95=float(high))


def make_fit(seed=0, **kwargs):
    """Return a fit whose γ rises from 10⁻⁵ to about 1.5, with β small and of changing sign."""
    rng = np.random.default_rng(seed)
    steps = np.linspace(25.0, 9975.0, TIMES)
    wiggle = rng.normal(size=(CHAINS, DRAWS, 1)) * 0.15
    gamma = 1.5 * (1e-5 + 1.0 / (1.0 + np.exp(-(steps - 3500.0) / 400.0))) * np.exp(wiggle)
    beta = 0.02 * np.sin(steps / 1500.0) * (1.0 + wiggle)
    curves = {
        "gamma": gamma,
        "beta": beta,
        "alpha": gamma + beta,
        "kappa": 1e-4 * np.exp(wiggle) * np.cos(steps / 4000.0),
        "global_scale": 0.1 * np.exp(-steps / 4000.0 + wiggle),
        "class_scale": 0.02 * np.exp(-steps / 5000.0 + wiggle),
        "impact_scale": 0.07 * np.exp(-steps / 6000.0 + wiggle),
        "individual_scale": 0.004 * np.exp(-steps / 9000.0 + wiggle),
    }
    scalars = {"tail_index": 0.6 + wiggle[..., 0], "paper_tail_index": 0.75 + wiggle[..., 0]}
    posterior = xr.Dataset(
        {name: (("chain", "draw", "time"), values) for name, values in curves.items()}
        | {name: (("chain", "draw"), values) for name, values in scalars.items()},
        coords={"time": steps},
    )
    statistics = xr.Dataset({"energy": (("chain", "draw"), rng.normal(size=(CHAINS, DRAWS)))})
    data = xr.DataTree.from_dict({"posterior": posterior, "sample_stats": statistics})
    return FakeFit(posterior=posterior, data=data, **kwargs)


def make_check(seed=0, n_classes=3, n_features=3, n_steps=8, n_draws=60):
    """Return a check whose prediction is right, but for NC1, predicted a factor of four too small at the end."""
    rng = np.random.default_rng(seed)
    steps = np.linspace(3000, 10_000, n_steps).astype(int) if n_steps > 1 else np.array([10_000])
    growth = np.linspace(0.2, 12.0, n_steps)[:, None, None] if n_steps > 1 else np.full((1, 1, 1), 12.0)
    corners = rng.normal(size=(n_classes, n_features))
    observed_means = growth * corners + 0.05 * rng.normal(size=(n_steps, n_classes, n_features))
    predicted_means = observed_means * (1.0 + 0.1 * rng.normal(size=(n_draws, 1, 1, 1)))
    norms = np.sqrt(((observed_means - observed_means.mean(1, keepdims=True)) ** 2).sum(-1).mean(-1))
    nc1 = np.geomspace(3.0, 0.04, n_steps)
    noise = rng.normal(size=(n_draws, 1))
    share = np.clip(np.linspace(0.3, 1.1, n_steps), 0.0, 1.0)
    observed = {
        "linear_separability": np.round(3 * share) / 3,
        "linear_accuracy": share,
        "nc1": nc1,
        "between_norm": norms,
    }
    predicted = {
        "linear_separability": np.clip(np.round(3 * (share + 0.1 * noise)) / 3, 0, 1),
        "linear_accuracy": np.clip(share + 0.05 * noise, 0, 1),
        "nc1": nc1 * np.geomspace(1.0, 0.25, n_steps) * np.exp(0.2 * noise),
        "between_norm": norms * np.exp(0.2 * noise),
    }
    return SimpleNamespace(
        steps=steps,
        predicted=predicted,
        observed=observed,
        p_values={name: (predicted[name] >= observed[name]).mean(axis=0) for name in METRICS},
        class_means_observed=observed_means,
        class_means_predicted=predicted_means,
        probability_separable=0.975,
        at_step=3000,
        horizon_step=10_000,
    )
