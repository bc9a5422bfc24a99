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

from collections.abc import Callable, Sequence
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


class Unit(NamedTuple):
    """About where a parameter's posterior lies and how wide it is, from least squares: chains move in units of it."""

    centre: float
    width: float


Units = dict[str, Unit]


def units_of(run: Run, impact: str) -> Units:
    """Return units of the rates γ, g and κ, an interval, and of the logs of the three noise scales.

    Chains of every contestant start at the centres, and priors do not depend on the units.
    """
    means, lengths = run.class_means, np.diff(run.times)[:, None, None]
    impacts = means if impact == "I" else _numpy_residuals(run)
    average, deviations = impacts.mean(axis=1, keepdims=True), run.features - means[:, run.labels]
    moved, own = np.diff(means, axis=0), np.diff(deviations, axis=0)
    moved_all = moved.mean(axis=1, keepdims=True)
    pairs = {
        "gamma": (moved - moved_all, ((impacts - average)[:-1]) * lengths / run.n_classes),
        "shared_rate": (moved_all, average[:-1] * lengths),
        "kappa": (own, deviations[:-1] * lengths),
    }
    units: Units = {}
    for (rate, (change, push)), noise in zip(pairs.items(), ("class", "all", "own"), strict=True):
        square = float((push**2).sum())
        centre = float((change * push).sum()) / square
        rest = (change - centre * push) / np.sqrt(lengths)
        # Contrasts and deviations sum to zero, and have one class, or one sample of each class, less than numbers.
        share = {"class": 1 - 1 / run.n_classes, "all": 1.0, "own": 1 - run.n_classes / len(run.labels)}[noise]
        scale = float(np.sqrt((rest**2).mean() / share))
        units[rate] = Unit(centre, scale * float(np.sqrt(lengths.mean() / square)))
        units[f"scale_{noise}"] = Unit(float(np.log(scale)), float((2 * share * rest.size) ** -0.5))
    return units


def _numpy_residuals(run: Run) -> Float[np.ndarray, "record class_ feature"]:
    softmax = np.exp(run.features - run.features.max(axis=2, keepdims=True))
    softmax /= softmax.sum(axis=2, keepdims=True)
    residuals = np.eye(run.n_classes)[run.labels] - softmax
    return np.stack([residuals[:, run.labels == k].mean(axis=1) for k in range(run.n_classes)], axis=1)


def start_of(units: Units, names: Sequence[str]) -> dict[str, object]:
    """Return where chains start."""
    return {name: jnp.asarray(units[name].centre / units[name].width) for name in names}


def sample_rate(name: str, units: Units, n_intervals: int) -> Array:
    """Sample a rate, an interval, in its unit; the prior is Normal(0, 10/T)."""
    width = units[name].width
    return width * numpyro.sample(name, dist.Normal(0.0, 10.0 / n_intervals / width))


def sample_scale(name: str, units: Units) -> Array:
    """Sample the log of a noise scale, a root interval, in its unit; the prior is one e-fold wide around the data's."""
    centre, width = units[f"scale_{name}"]
    return jnp.exp(width * numpyro.sample(f"scale_{name}", dist.Normal(centre / width, 1.0 / width)))


def plain_task(run: Run, variant: str, impact: str) -> Task:
    """Return one of the plain models on a recording."""
    units = units_of(run, impact)
    arguments = (jnp.asarray(run.features), jnp.asarray(run.labels), jnp.asarray(np.diff(run.times)))
    model: Callable[..., None] = {"latent": _latent, "strata": _strata, "independent": _independent}[variant]
    scales = ("own",) if variant == "independent" else ("all", "class", "own")
    start = start_of(units, (*RATES, *(f"scale_{name}" for name in scales)))
    if variant == "latent":
        moved = np.diff(run.class_means, axis=0)
        of_all = moved.mean(axis=1, keepdims=True)
        unit = latent_unit(units, len(run.labels) // run.n_classes)
        start |= {"noise_of_all": jnp.asarray(of_all / unit), "noise_of_class": jnp.asarray((moved - of_all) / unit)}

    def bound(*data: Array) -> None:
        model(*data, impact=impact, n_classes=run.n_classes, units=units)

    return Task(bound, arguments, RATES, start, {name: units[name].width for name in RATES})


def latent_unit(units: Units, per_class: int) -> float:
    """Return how well the noise of a class mean in an interval is known from its samples."""
    return float(np.exp(units["scale_own"].centre) / np.sqrt(per_class))


def _average(values: Float[Array, "time sample feature"], labels: Int[Array, " sample"], n_classes: int) -> Array:
    one_hot = jax.nn.one_hot(labels, n_classes, dtype=values.dtype)
    return jnp.einsum("tnp,nk->tkp", values, one_hot / one_hot.sum(axis=0))


def _drift(
    features: Array, labels: Array, lengths: Array, impact: str, n_classes: int, units: Units
) -> tuple[Array, Array]:
    """Sample α, β and κ; return the motion of the class means, and of each sample's deviation."""
    n_intervals = len(lengths)
    gamma, shared = sample_rate("gamma", units, n_intervals), sample_rate("shared_rate", units, n_intervals)
    beta = shared - gamma / n_classes
    elasticity = gamma * jnp.eye(n_classes) + beta
    means = _average(features, labels, n_classes)
    impacts = means
    if impact == "R":
        residuals = jax.nn.one_hot(labels, n_classes) - jax.nn.softmax(features, axis=-1)
        impacts = _average(residuals, labels, n_classes)
    drift = jnp.einsum("kl,tlp->tkp", elasticity, impacts) / n_classes * lengths[:, None, None]
    own = sample_rate("kappa", units, n_intervals) * (features - means[:, labels]) * lengths[:, None, None]
    return drift, own


def _latent(features: Array, labels: Array, lengths: Array, *, impact: str, n_classes: int, units: Units) -> None:
    drift, own = _drift(features[:-1], labels, lengths, impact, n_classes, units)
    root = jnp.sqrt(lengths)[:, None, None]
    shape = drift.shape
    unit = latent_unit(units, len(labels) // n_classes)
    of_all = unit * numpyro.sample(
        "noise_of_all",
        dist.Normal(0.0, sample_scale("all", units) * root / unit).expand([shape[0], 1, shape[2]]).to_event(3),
    )
    of_class = unit * numpyro.sample(
        "noise_of_class", dist.Normal(0.0, sample_scale("class", units) * root / unit).expand(shape).to_event(3)
    )
    expected = features[:-1] + (drift + of_all + of_class)[:, labels] + own
    numpyro.sample("next", dist.Normal(expected, sample_scale("own", units) * root), obs=features[1:])


def _strata(features: Array, labels: Array, lengths: Array, *, impact: str, n_classes: int, units: Units) -> None:
    drift, own = _drift(features[:-1], labels, lengths, impact, n_classes, units)
    root = jnp.sqrt(lengths)[:, None, None]
    rest = features[1:] - features[:-1] - drift[:, labels] - own
    means = _average(rest, labels, n_classes)
    contrasts = jnp.einsum("ck,tkp->tcp", jnp.asarray(orthonormal_contrasts(n_classes)), means)
    deviations = rest - means[:, labels]
    numpyro.factor("shared", dist.Normal(0.0, sample_scale("all", units) * root[:, 0]).log_prob(means.mean(1)).sum())
    numpyro.factor("contrasts", dist.Normal(0.0, sample_scale("class", units) * root).log_prob(contrasts).sum())
    own_scale = sample_scale("own", units) * root
    # Deviations have K dimensions less than there are samples: as many normalising constants too many are taken back.
    surplus = n_classes * features.shape[2] * (jnp.log(own_scale) + 0.5 * jnp.log(2 * jnp.pi)).sum()
    numpyro.factor("deviations", dist.Normal(0.0, own_scale).log_prob(deviations).sum() + surplus)


def _independent(features: Array, labels: Array, lengths: Array, *, impact: str, n_classes: int, units: Units) -> None:
    drift, own = _drift(features[:-1], labels, lengths, impact, n_classes, units)
    scale = sample_scale("own", units) * jnp.sqrt(lengths)[:, None, None]
    numpyro.sample("next", dist.Normal(features[:-1] + drift[:, labels] + own, scale), obs=features[1:])
