"""What the tests of the inference core share: small recordings, and the model written out plainly, sample by sample."""

from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
from scipy import linalg, special

from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer import kept_rows, recording_identity
from lesde_infer._jax import jnp
from lesde_infer.curves import CurvePrior, curve_design
from lesde_infer.model import StrataData

CASES = ["I", "L", "R", "R hidden"]
SIZES = {2: (3, 6), 3: (4, 2, 5), 5: (2, 4, 3, 6, 5)}


@dataclass(frozen=True)
class Run:
    """A made-up training run in memory: features drift, spread and shake, at irregular times."""

    steps: np.ndarray
    time: np.ndarray
    labels: np.ndarray
    given: np.ndarray
    features: np.ndarray
    logits: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @property
    def n_classes(self):
        return int(self.labels.max()) + 1

    def write(self, path, **options):
        """Write layers ``hidden`` and ``out`` and the classifier between them; return the open recording."""
        arguments = {
            "steps": self.steps,
            "labels": self.labels,
            "features": {"hidden": self.features, "out": self.logits},
            "logits": "out",
            "given_labels": self.given,
            "classifier": (self.weight, self.bias, "hidden"),
            "time": self.time,
        }
        return Recording(write_recording(path, **{**arguments, **options}))


def make_run(n_classes, n_features, n_records=4, *, seed=0, corrupted=True):
    """Return a run of unequal classes in random order; ``corrupted`` gives some samples a wrong label to train on."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(n_classes), SIZES[n_classes]))
    given = np.where(rng.random(len(labels)) < 0.2, rng.permutation(labels), labels) if corrupted else labels
    steps = np.cumsum(rng.integers(1, 30, size=n_records))
    time = 0.1 * steps
    centres = rng.normal(size=(n_classes, n_features))
    growth = np.linspace(1.0, 1.5, n_records)[:, None, None]
    shape = (n_records, len(labels), n_features)
    features = growth * centres[labels] + rng.normal(size=shape[1:]) + 0.1 * rng.normal(size=shape).cumsum(axis=0)
    weight = rng.normal(size=(n_classes, n_features)) + 0.1 * rng.normal(size=(n_records, n_classes, n_features))
    bias = rng.normal(size=n_classes) + 0.1 * rng.normal(size=(n_records, n_classes))
    logits = np.einsum("tnp,tkp->tnk", features, weight) + bias[:, None]
    return Run(steps, time, labels, given, features, logits, weight, bias)


def make_case(case, n_classes, seed, **options):
    """Return a run, and the layer and impact to fit; hidden features are wider or narrower than the logits by seed."""
    width = n_classes if case == "L" else (n_classes + 2 if seed % 2 else max(n_classes - 1, 2))
    run = make_run(n_classes, width, seed=seed, **options)
    return run, "out" if case == "R" else "hidden", case[0]


def in_all_dimensions(statistics):
    """Return statistics that take noise for alike in all dimensions, which closed forms are for."""
    contrast, shared = (
        replace(stratum, effective_dimension=float(stratum.dimension))
        for stratum in (statistics.contrast, statistics.shared)
    )
    return replace(statistics, contrast=contrast, shared=shared)


def write_first(path, run, n_records, features, **options):
    """Write the first records of a run, with other hidden features; return the path."""
    run.write(
        path,
        steps=run.steps[:n_records],
        features={"hidden": features[:n_records], "out": run.logits[:n_records]},
        classifier=(run.weight[:n_records], run.bias[:n_records], "hidden"),
        time=run.time[:n_records],
        force=True,
        **options,
    ).close()
    return path


def keep_all_rows(folder, monkeypatch):
    """Keep rows of recordings of any size, whose files need not have rested, in a cache folder of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv(kept_rows.SWITCH, raising=False)
    monkeypatch.setattr(kept_rows, "WORTHWHILE", 0)
    monkeypatch.setattr(recording_identity, "SETTLED", -1.0)


def assert_equal(found, expected, where="statistics"):
    """Hold what is nested against each other, number by number, to the last bit."""
    if is_dataclass(expected):
        for field in fields(expected):
            assert_equal(getattr(found, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    elif isinstance(expected, tuple | list):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{where}[{number}]")
    else:
        np.testing.assert_array_equal(found, expected, err_msg=where)


def class_means(features, labels):
    """Mean of the samples of each class, class by class."""
    return np.array([features[labels == k].mean(axis=0) for k in range(labels.max() + 1)])


def elasticity(gamma, global_rate, n_classes):
    """E from γ = α − β and g = (α + (K−1)β)/K."""
    beta = global_rate - gamma / n_classes
    return np.full((n_classes, n_classes), beta) + gamma * np.eye(n_classes)


def linear_drift(impact, elasticity_matrix, features, labels, given=None, logits=None, weight=None):
    """Return (A, b): the drift of all class means, stacked, is A m + b, R being linearised around the record."""
    n_classes, n_features = len(elasticity_matrix), features.shape[1]
    means = class_means(features, labels)
    operator = np.zeros((n_classes, n_features, n_classes, n_features))
    constant = np.zeros((n_classes, n_features))
    curvature = np.zeros((n_classes, n_classes))
    residuals = np.zeros((n_classes, n_classes))
    if impact == "R":
        push = np.eye(n_classes) if weight is None else weight.T
        for k in range(n_classes):
            for i in np.flatnonzero(labels == k):
                s = special.softmax(logits[i])
                residuals[k] += (np.eye(n_classes)[given[i]] - s) / np.sum(labels == k)
                curvature += (np.diag(s) - np.outer(s, s)) / np.sum(labels == k) / n_classes
    for k in range(n_classes):
        for j in range(n_classes):
            rate = elasticity_matrix[k, j] / n_classes
            if impact == "I":
                operator[k, :, j, :] = rate * np.eye(n_features)
            elif impact == "L":
                d = np.eye(n_classes)[j] - 1 / n_classes
                operator[k, :, j, :] = rate * np.outer(d, d) / (d @ d)
            else:
                feedback = push @ curvature @ push.T
                operator[k, :, j, :] = -rate * feedback
                constant[k] += rate * (push @ residuals[j] + feedback @ means[j])
    size = n_classes * n_features
    return operator.reshape(size, size), constant.ravel()


def expected_increment(means, operator, constant, length):
    """Solve dm/dt = A m + b over ``length`` with one matrix exponential; return m(length) − m(0)."""
    size = means.size
    augmented = np.zeros((size + 1, size + 1))
    augmented[:size, :size], augmented[:size, size] = operator, constant
    # The velocity at the start is integrated, not the state, so that a drift of zero leaves exactly nothing.
    augmented[:size, size] = operator @ means.ravel() + constant
    return linalg.expm(augmented * length)[:size, size].reshape(means.shape)


def neighbouring_median(values, n_steps, reach=5, summary=np.median):
    """Median over an interval and the ``reach`` before and after it that are as short, or as long, as it is."""
    middle = np.sqrt(n_steps.min() * n_steps.max())
    result = []
    for i, n in enumerate(n_steps):
        alike = [j for j, other in enumerate(n_steps) if (other >= middle) == (n >= middle)]
        place = alike.index(i)
        result.append(summary([values[j] for j in alike[max(place - reach, 0) : place + reach + 1]]))
    return np.array(result)


def relative_log_length(n_steps):
    """From 0 for the shortest interval to 1 for the longest, as logarithms."""
    return np.log(n_steps / n_steps.min()) / np.log(n_steps.max() / n_steps.min())


def random_strata(
    rng, n_intervals, dimensions, n_components=1, *, numbers=(), measured=False, mixed=False, feedback=1.0
):
    """Return StrataData of increments of our own, and the vectors (directions, increments) they were collapsed from.

    Directions are orthogonal, as those of the impacts are, but for the strata in ``numbers``, whose increments and
    directions are numbers of either sign. ``measured`` makes the last stratum a measured log variance with an error, as
    `lesde_infer.assembly` does for individual noise.
    """
    n_strata, n_classes = len(dimensions), 3
    numbers = {*numbers, *([n_strata - 1] if measured else [])}
    steps = rng.integers(1, 40, size=n_intervals)
    lengths = 0.1 * steps
    directions, increments = [], []
    for s, d in enumerate(dimensions):
        if s in numbers:
            directions.append(rng.normal(size=(n_intervals, n_components, 1)))
        else:
            axes = np.array([linalg.qr(rng.normal(size=(d, d)))[0][:n_components] for _ in range(n_intervals)])
            padded = np.zeros((n_intervals, n_components, d))
            padded[:, : axes.shape[1]] = axes * rng.uniform(0.5, 2.0, size=(n_intervals, axes.shape[1], 1))
            directions.append(padded)
        increments.append(rng.normal(size=(n_intervals, d)))
    square = np.array([(u**2).sum(axis=-1) for u in directions])
    product = np.array([np.einsum("tjd,td->tj", u, x) for u, x in zip(directions, increments, strict=True)])
    number = np.zeros((n_strata, n_intervals))
    for s in numbers:
        square[s], product[s], number[s] = directions[s][:, :, 0], 0.0, increments[s][:, 0]
    is_rate, error = np.ones(n_strata), np.zeros((n_strata, n_intervals))
    exposure = np.tile(lengths / n_classes, (n_strata, 1))
    log_length = np.tile(0.5 * np.log(lengths), (n_strata, 1))
    feedbacks = feedback * rng.uniform(0.1, 1.0, size=square.shape)
    if measured:
        is_rate[-1], error[-1], exposure[-1], log_length[-1], feedbacks[-1] = 0.0, 0.3, 1.0, 0.0, 0.0
    n_curves = (3 if mixed else 2) * n_strata
    prior = CurvePrior(*(jnp.asarray(rng.uniform(0.5, 2.0, size=n_curves)) for _ in range(4)))
    midpoints = np.cumsum(lengths) - lengths / 2
    data = StrataData(
        direction_square=jnp.asarray(square),
        direction_increment=jnp.asarray(product),
        increment=jnp.asarray(number),
        increment_square=jnp.asarray([(x**2).sum(axis=-1) for x in increments]),
        is_number=jnp.asarray([s in numbers for s in range(n_strata)], float),
        feedback=jnp.asarray(feedbacks),
        dimension=jnp.asarray(dimensions, float),
        exposure=jnp.asarray(exposure),
        log_length=jnp.asarray(log_length),
        error=jnp.asarray(error),
        observed=jnp.ones_like(jnp.asarray(error)),
        reference=jnp.asarray(rng.uniform(0.05, 0.2, size=n_strata)),
        is_rate=jnp.asarray(is_rate),
        relaxes=jnp.asarray(is_rate),
        prior=prior,
        design=curve_design(midpoints, float(lengths.sum()), 0.04 * float(lengths.sum())),
        lengths=jnp.asarray(lengths),
        n_steps=jnp.asarray(steps, float),
        relative_length=jnp.asarray(relative_log_length(steps) if mixed else np.ones(n_intervals)),
        n_classes=jnp.asarray(n_classes, float),
        relative_size=jnp.zeros((n_strata, n_intervals)),
    )
    return data, directions, increments
