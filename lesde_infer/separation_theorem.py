"""The separation theorem for power laws, when classes separate and how soon one would know.

Zhang, Wang and Su (2021, theorem 1) say that classes of the LE-SDE separate if γ(t) ≫ 1/t, and do not if γ(t) ≪ 1/t,
where noise does not vanish. What happens at the border, and where noise does vanish, follows from the isotropic model
(impact I), which can be solved. From time 1 on let

    γ(t) = c t^−r,    κ(t) = k t^−r,    σ(t)² = σ² t^−q,    c, σ > 0.

Contrasts of the class means obey dm = (γ/K) m dt and deviations of samples dy = κ y dt + σ(t) dW, so that with
G(t) = ∫₁ᵗ γ/K ds and H(t) = ∫₁ᵗ κ ds

    m(t) = e^G m(1),        y(t) ~ N(0, e^{2H} V(t)),    V(t) = s² + ∫₁ᵗ e^{−2H(u)} σ² u^−q du,

s being the standard deviation at time 1 (Itô's isometry for y e^−H, a martingale). What decides is the ratio

    |m(t)| / sd(t) = |m(1)| e^{G − H} / √V.

With k = 0 (else c/K − k takes the place of c/K, and, for k > 0, V stays bounded also for q ≤ 1 where e^{−2H} t^−q is
integrable), G is of order t^{1−r} for r < 1, (c/K) log t for r = 1, and bounded for r > 1, while V is of order t^{1−q}
for q < 1, log t for q = 1, and bounded for q > 1. Hence the ratio

- r < 1: diverges for every q, and classes separate;
- r = 1: is of order t^{c/K − (1−q)/2} for q < 1 and diverges for c/K > (1−q)/2, vanishes for c/K < (1−q)/2, and is
  constant at equality; for q ≥ 1 it diverges;
- r > 1: vanishes for q ≤ 1, and classes do not separate; tends to a constant for q > 1, and what happens depends on
  where they started.

The theorem's dichotomy, γ against 1/t, is the first and the last for noise that does not vanish (q = 0); at r = 1 it
is silent, and c/K decides against 1/2. Noise of whole classes, which the theorem has none of, is left out here: it
moves class means apart at random, and where the ratio vanishes it leaves separation to that chance.

Since the laws of m and y are known, features at any time are drawn exactly, without simulating what came before, in
units of e^G so that nothing overflows. tests/lesde_infer/test_separation_theorem.py holds them against paths of
`lesde_infer.simulate`, and the limits against the ratio at late times.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from lesde_infer.impacts import simplex_directions
from lesde_infer.predictive import separable_share
from lesde_infer.separability import pairwise_separable

Limit: TypeAlias = Literal["separates", "does not separate", "depends on the start"]

QUADRATURE_POINTS = 4001  # in log time


@dataclass(frozen=True)
class PowerLaws:
    """Rates and noise as powers of time, from time 1 on; see the module's docstring.

    Attributes
    ----------
    rate : float
        c of γ(t) = c t^−r; positive.
    exponent : float
        r.
    noise_exponent : float
        q of σ(t)² = σ² t^−q.
    noise : float
        σ, per square root of a unit of time; positive.
    growth : float
        k of κ(t) = k t^−r.
    n_classes : int
        K.
    start : float
        Ratio of the norm of a class mean, from their centre, to the standard deviation of deviations at time 1, which
        is one.
    """

    rate: float
    exponent: float
    noise_exponent: float = 0.0
    noise: float = 1.0
    growth: float = 0.0
    n_classes: int = 3
    start: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what the derivation does not cover.

        Raises
        ------
        InputError
            If a rate, noise or start is not positive, or there are fewer than two classes.
        """
        for name in ("rate", "noise", "start"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a positive number")
        if self.n_classes < 2:
            raise InputError(f"n_classes is {self.n_classes}; give at least 2")

    def log_growth(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """Return ∫₁ᵗ s^−r ds, times which c/K is G and k is H."""
        logarithm, power = np.log(times), 1.0 - self.exponent
        return logarithm if power == 0.0 else np.expm1(power * logarithm) / power

    def log_ratio(self, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """Return the log of |m(t)|/sd(t), the typical distance of class means in units of deviations.

        Parameters
        ----------
        times : float array (time,)
            At least 1, where time begins.
        """
        gain = (self.rate / self.n_classes - self.growth) * self.log_growth(times)
        return np.log(self.start) + gain - 0.5 * np.log([self._variance(time) for time in times.tolist()])

    def _variance(self, time: float) -> float:
        """V(t), by the trapezoidal rule in log time: ∫ e^{−2H} σ² u^{1−q} d log u."""
        log_time = np.linspace(0.0, np.log(time), QUADRATURE_POINTS)
        shrinkage = -2.0 * self.growth * self.log_growth(np.exp(log_time))
        integrand = self.noise**2 * np.exp(shrinkage + (1.0 - self.noise_exponent) * log_time)
        return 1.0 + float(np.trapezoid(integrand, log_time))

    @property
    def limit(self) -> Limit:
        """What happens as time goes on for ever, by the derivation.

        Raises
        ------
        InputError
            If deviations grow or shrink by themselves: the derivation is for k = 0.
        """
        if self.growth != 0.0:
            raise InputError("limits are derived for growth 0; look at log_ratio at late times")
        r, q = self.exponent, self.noise_exponent
        if r < 1.0:
            return "separates"
        if r > 1.0:
            return "does not separate" if q <= 1.0 else "depends on the start"
        if q >= 1.0:
            return "separates"
        border = (1.0 - q) / 2.0
        if self.rate / self.n_classes == border:
            return "depends on the start"
        return "separates" if self.rate / self.n_classes > border else "does not separate"


def probability_of_separation(
    laws: PowerLaws,
    time: float,
    *,
    samples_per_class: int = 50,
    n_runs: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Return how often all pairs of classes are linearly separable at a time, and its Monte-Carlo error.

    Class means are corners of a simplex in as many dimensions as there are classes; samples are drawn around them.

    Parameters
    ----------
    laws : PowerLaws
    time : float
        At least 1.
    samples_per_class, n_runs, seed : int
        Samples, runs, and what fixes them.

    Raises
    ------
    InputError
        If the time is before the start, or a number is too small.
    """
    if time < 1.0:
        raise InputError(f"time is {time}; it begins at 1")
    for name, value in (("samples_per_class", samples_per_class), ("n_runs", n_runs)):
        if value < 2:
            raise InputError(f"{name} is {value}; give at least 2")
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(laws.n_classes), samples_per_class)
    corners = simplex_directions(laws.n_classes)[labels]
    # In units of the deviations' sd or of the means' norm, whichever is larger: nothing overflows.
    ratio = float(laws.log_ratio(np.array([time]))[0])
    signal, scatter = np.exp(min(ratio, 0.0)), np.exp(-max(ratio, 0.0))
    separable = []
    for _ in range(n_runs):
        features = signal * corners + scatter * generator.normal(size=corners.shape)
        separable.append(pairwise_separable(features, labels).all_pairs)
    return separable_share(np.array(separable))
