"""The LE-SDE written sample by sample in NumPyro, without sufficient statistics: three ways a user might write it.

A sample i of class k moves between two records by

    Dₖ Δ + κ (X_i − X̄ᵏ) Δ + σ_g √Δ ε + σ_c √Δ εₖ + σ_i √Δ ε_i,     Dₖ = (1/K) Σₗ Eₖₗ hₗ,

E with α on the diagonal and β off it, h the class means (impact I) or the class means of e_given − softmax (R), and
all rates constant. Every evaluation of the density goes through all samples of all records.

- `plain-latent` is that, literally: noise of the class means is sampled, one vector an interval and class.
- `plain-strata` is the same with that noise integrated out by hand: contrasts between class means, their mean, and
  deviations from them are independent. Its density is the one of lesde with Gaussian noise.
- `plain-independent` leaves noise that classes share out. It is quick to write, and where there is such noise its
  intervals are much too narrow.

Time is counted in mean intervals, and priors are as wide as the data could be: a rate is Normal(0, 10/T) an interval.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from timed_nuts import Task

from data_tools.recording import Recording

RATES = ("gamma", "shared_rate", "kappa")


class Run(NamedTuple):
    """A recording in memory, time in mean intervals."""

    features: Float[np.ndarray, "record sample feature"]
    labels: Int[np.ndarray, " sample"]
    times: Float[np.ndarray, " record"]
    unit: float

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return int(self.labels.max()) + 1

    @property
    def class_means(self) -> Float[np.ndarray, "record class_ feature"]:
        """Means over the samples of each class."""
        return np.stack([self.features[:, self.labels == k].mean(axis=1) for k in range(self.n_classes)], axis=1)


def read_run(path: str) -> Run:
    """Read the logits, or the only layer, of a recording."""
    with Recording(path) as recording:
        layer = recording.choose_layer(None)
        features = np.asarray(recording.features(layer)[: recording.n_records], dtype=np.float64)
        unit = float(np.diff(recording.time).mean())
        return Run(features, np.asarray(recording.labels), np.asarray(recording.time) / unit, unit)


def orthonormal_contrasts(n_classes: int) -> Float[np.ndarray, "contrast class_"]:
    """Return K − 1 orthonormal rows that sum to zero each."""
    return np.linalg.svd(np.eye(n_classes) - 1.0 / n_classes)[0][:, : n_classes - 1].T


def scale_of(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(values**2)))


def sample_rate(name: str, n_intervals: int) -> Array:
    """Sample a rate an interval, kept in units of its prior's width."""
    return numpyro.sample(name, dist.Normal(0.0, 1.0)) * 10.0 / n_intervals


def sample_scale(name: str, guess: float) -> Array:
    """Sample a noise scale a root interval around a guess from the data."""
    return guess * jnp.exp(numpyro.sample(f"scale_{name}", dist.Normal(0.0, 1.0)))


def plain_task(run: Run, variant: str, impact: str) -> Task:
    """Return one of the plain models on a recording."""
    means = run.class_means
    moved = np.diff(means, axis=0)
    contrasts = moved - moved.mean(axis=1, keepdims=True)
    individual = np.diff(run.features, axis=0) - moved[:, run.labels]
    guesses = tuple(scale_of(values) for values in (moved.mean(axis=1), contrasts, individual))
    arguments = (jnp.asarray(run.features), jnp.asarray(run.labels), jnp.asarray(np.diff(run.times)))
    model: Callable[..., None] = {"latent": _latent, "strata": _strata, "independent": _independent}[variant]
    start: dict[str, object] = {name: jnp.zeros(()) for name in RATES}
    start |= {f"scale_{name}": jnp.zeros(()) for name in {"independent": ["own"]}.get(variant, ["all", "class", "own"])}
    if variant == "latent":
        start |= {"noise_of_all": jnp.asarray(moved.mean(axis=1, keepdims=True)), "noise_of_class": contrasts}

    def bound(*data: Array) -> None:
        model(*data, impact=impact, n_classes=run.n_classes, guesses=guesses)

    return Task(bound, arguments, RATES, start)


def _average(values: Float[Array, "time sample feature"], labels: Int[Array, " sample"], n_classes: int) -> Array:
    one_hot = jax.nn.one_hot(labels, n_classes, dtype=values.dtype)
    return jnp.einsum("tnp,nk->tkp", values, one_hot / one_hot.sum(axis=0))


def _drift(features: Array, labels: Array, lengths: Array, impact: str, n_classes: int) -> tuple[Array, Array, Array]:
    """Sample α, β and κ; return the motion of the class means, of each sample, and the class means."""
    n_intervals = len(lengths)
    gamma, shared = sample_rate("gamma", n_intervals), sample_rate("shared_rate", n_intervals)
    beta = shared - gamma / n_classes
    elasticity = gamma * jnp.eye(n_classes) + beta
    means = _average(features, labels, n_classes)
    impacts = means
    if impact == "R":
        residuals = jax.nn.one_hot(labels, n_classes) - jax.nn.softmax(features, axis=-1)
        impacts = _average(residuals, labels, n_classes)
    drift = jnp.einsum("kl,tlp->tkp", elasticity, impacts) / n_classes * lengths[:, None, None]
    own = sample_rate("kappa", n_intervals) * (features - means[:, labels]) * lengths[:, None, None]
    return drift, own, means


def _latent(features: Array, labels: Array, lengths: Array, *, impact: str, n_classes: int, guesses: tuple) -> None:
    drift, own, _ = _drift(features[:-1], labels, lengths, impact, n_classes)
    root = jnp.sqrt(lengths)[:, None, None]
    shape = drift.shape
    of_all = numpyro.sample(
        "noise_of_all",
        dist.Normal(0.0, sample_scale("all", guesses[0]) * root).expand([shape[0], 1, shape[2]]).to_event(3),
    )
    of_class = numpyro.sample(
        "noise_of_class", dist.Normal(0.0, sample_scale("class", guesses[1]) * root).expand(shape).to_event(3)
    )
    expected = features[:-1] + (drift + of_all + of_class)[:, labels] + own
    numpyro.sample("next", dist.Normal(expected, sample_scale("own", guesses[2]) * root), obs=features[1:])


def _strata(features: Array, labels: Array, lengths: Array, *, impact: str, n_classes: int, guesses: tuple) -> None:
    drift, own, _ = _drift(features[:-1], labels, lengths, impact, n_classes)
    root = jnp.sqrt(lengths)[:, None, None]
    rest = features[1:] - features[:-1] - drift[:, labels] - own
    means = _average(rest, labels, n_classes)
    contrasts = jnp.einsum("ck,tkp->tcp", jnp.asarray(orthonormal_contrasts(n_classes)), means)
    deviations = rest - means[:, labels]
    numpyro.factor(
        "shared", dist.Normal(0.0, sample_scale("all", guesses[0]) * root[:, 0]).log_prob(means.mean(1)).sum()
    )
    numpyro.factor("contrasts", dist.Normal(0.0, sample_scale("class", guesses[1]) * root).log_prob(contrasts).sum())
    own_scale = sample_scale("own", guesses[2]) * root
    # Deviations have K dimensions less than there are samples: as many normalising constants too many are taken back.
    surplus = n_classes * features.shape[2] * (jnp.log(own_scale) + 0.5 * jnp.log(2 * jnp.pi)).sum()
    numpyro.factor("deviations", dist.Normal(0.0, own_scale).log_prob(deviations).sum() + surplus)


def _independent(
    features: Array, labels: Array, lengths: Array, *, impact: str, n_classes: int, guesses: tuple
) -> None:
    drift, own, _ = _drift(features[:-1], labels, lengths, impact, n_classes)
    scale = sample_scale("own", guesses[2]) * jnp.sqrt(lengths)[:, None, None]
    numpyro.sample("next", dist.Normal(features[:-1] + drift[:, labels] + own, scale), obs=features[1:])
