r"""Along which directions class-mean noise moves, for paths to be simulated along the same.

A mini-batch pushes class means along the few directions that its samples share (`lesde_infer.noise_dimension`). LeNet
on shapes with 40 % of the labels wrong: of the noise of the contrasts, which have six dimensions, 71 % lie along one
direction and 23 % along another. Simulated as if alike in all six, noise drives apart those classes too that training
leaves together: where the second singular value of the contrasts was 0.14 at the end, paths had 0.46, and 0.32 with the
directions of this module; P(separable) was 0.88 and is 0.64, of a run that is not separable.

From increments y_t of a stratum, each without its component along the impact, and their directions û_t = y_t/|y_t|,

    S = Σ_t n_t û_t û_tᵀ / Σ_t n_t,        tr S = 1,

n_t being the steps of an interval, knows nothing of the sizes of increments, which follow a Student-t, and which the
model knows of. Few increments make S more uneven than it is of many. It is therefore drawn towards 1/d, d dimensions,
by the share ρ of Chen et al. (2010), who derive for n Gaussian increments the ρ of least expected squared error,

    ρ = ((1 − 2/d) tr S² + tr² S) / ((n + 1 − 2/d)(tr S² − tr² S/d)),        at most 1,

with n = (Σ n_t)²/Σ n_t². The largest `RANK` of S's directions are kept as such; the variance of the others is spread
evenly over all. S has the principal axes of the covariance Σ, but its shares s_j of variance are more even than Σ's,
λ_j (Dürre, Vogel and Fried 2015, for all elliptical distributions):

    s_j = E[λ_j z_j²/Σ_k λ_k z_k²] = ∫ λ_j/(1 + 2λ_j x) Π_k (1 + 2λ_k x)^{−1/2} dx,        z Gaussian, x from 0 to ∞.

λ is found by λ_j ← λ_j s_j/E_j(λ). (LeNet at p = 0.4: 71 and 23 % become 86 and 11 %, which is what increments give
that are divided by the size of those nearby, and Tyler's M-estimator.)

A path's noise in an interval is as large as the model says, along the impact of that interval and across it; S decides
where it points across. Where noise of contrasts is one stratum (impact L, or a matrix of elasticity) increments are
taken with what they have along the impact, and S decides in all directions. Nothing of this changes a posterior.

tests/lesde_infer/test_noise_directions.py checks recovery, shrinkage, and the covariance of simulated noise.

References
----------
Chen, Wiesel, Eldar and Hero, "Shrinkage Algorithms for MMSE Covariance Estimation", IEEE Transactions on Signal
Processing 58 (2010), equation 23 (oracle approximating shrinkage).
Dürre, Vogel and Fried, "Spatial sign correlation", Journal of Multivariate Analysis 135 (2015), section 2.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

RANK = 16
"""Directions that are kept as such."""

ROUNDING = 1e-12
"""Of an increment's size, below which what is left across the impact is rounding, which has any direction."""

SKETCH = 4 * RANK
"""Directions that are kept while increments come in, and as many increments are held before they are merged."""


GRID = np.linspace(-30.0, 60.0, 1_801)  # log x, over which s is integrated
ITERATIONS, ACCURACY, TINY = 500, 1e-6, 1e-300


@dataclass(frozen=True)
class NoiseDirections:
    """Covariance of the noise of a stratum, per unit of variance in each of its d dimensions: d S, shrunk.

    Attributes
    ----------
    axes : array, shape (axis, *shape)
        Rows a with covariance Σ a aᵀ, apart from the even part.
    even : float
        Variance that noise has in every direction besides.
    """

    axes: Float[np.ndarray, "axis *shape"]
    even: float

    @classmethod
    def alike(cls, shape: tuple[int, ...]) -> "NoiseDirections":
        """Return noise that is alike in all directions."""
        return cls(np.zeros((1, *shape)), 1.0)  # no file has arrays of length 0


@dataclass(frozen=True)
class ClassMeanNoise:
    """Directions of the noise of contrasts, shape (class, feature), and of the mean over classes, shape (feature)."""

    contrast: NoiseDirections
    shared: NoiseDirections

    def to_variables(self) -> dict[str, tuple[tuple[str, ...], Float[np.ndarray, "*shape"]]]:
        """Return arrays by name, as a fit keeps them."""
        return {
            "contrast_noise_axes": (("noise_axis", "class_", "feature"), self.contrast.axes),
            "shared_noise_axes": (("shared_noise_axis", "feature"), self.shared.axes),
            "even_noise": (("noise_stratum",), np.array([self.contrast.even, self.shared.even])),
        }

    @classmethod
    def from_variables(cls, constant: xr.Dataset) -> "ClassMeanNoise | None":
        """Read what `to_variables` wrote; fits of earlier versions kept none."""
        if "even_noise" not in constant:
            return None
        even = constant["even_noise"].to_numpy()
        return cls(
            NoiseDirections(constant["contrast_noise_axes"].to_numpy(), float(even[0])),
            NoiseDirections(constant["shared_noise_axes"].to_numpy(), float(even[1])),
        )


class ObservedDirections:
    """Collects S from increments as they come, in memory of 2 `SKETCH` increments."""

    def __init__(self) -> None:
        self._rows: list[Float[np.ndarray, " entry"]] = []
        self._total = 0.0  # Σ n_t
        self._squares = 0.0
        self._shape: tuple[int, ...] = ()

    def add(self, noise: Float[np.ndarray, " entry"], size: float, n_steps: int, shape: tuple[int, ...]) -> None:
        """Take in an increment, flat and without its component along the impact, its whole size, and its steps."""
        length = float(np.linalg.norm(noise))
        if not length > ROUNDING * size:
            return
        self._shape = shape
        self._rows.append(np.sqrt(n_steps) / length * noise)
        self._total += n_steps
        self._squares += float(n_steps) ** 2
        if len(self._rows) >= 2 * SKETCH:
            self._rows = list(_largest(np.stack(self._rows), SKETCH))

    def of(self, dimension: int, shape: tuple[int, ...]) -> NoiseDirections:
        """Return the covariance in so many dimensions; alike in all where no increment came."""
        if not self._rows or dimension < 2:
            return NoiseDirections.alike(shape)
        axes = _largest(np.stack(self._rows), min(RANK, dimension)) / np.sqrt(self._total)
        seen = (axes**2).sum(axis=1)
        axes, seen = axes[seen > ROUNDING], seen[seen > ROUNDING]
        rest = max(1.0 - float(seen.sum()), 0.0)
        shrinkage = shrinkage_share(float((seen**2).sum()) + rest**2 / dimension, self._count, dimension)
        even = (shrinkage + (1.0 - shrinkage) * rest) / dimension
        shares = np.append((1.0 - shrinkage) * seen + even, even)
        variances = dimension * variances_of_shares(shares, np.append(np.ones(len(seen)), dimension - len(seen)))
        longer = np.maximum(variances[:-1] - variances[-1], 0.0)
        kept = np.zeros((min(RANK, dimension), *self._shape))  # as many for all runs of a shape, which share programs
        kept[: len(seen)] = (np.sqrt(longer / seen)[:, None] * axes).reshape(-1, *self._shape)
        return NoiseDirections(kept, float(variances[-1]))

    @property
    def _count(self) -> float:
        """Increments, as if all were of as many steps."""
        return self._total**2 / self._squares


def shrinkage_share(sum_of_squares: float, n: float, dimension: int) -> float:
    """Return ρ for tr S = 1, tr S² as given, from n increments: see the module's docstring."""
    above = sum_of_squares - 1.0 / dimension
    if above <= 0.0:
        return 1.0
    numerator = (1.0 - 2.0 / dimension) * sum_of_squares + 1.0
    return min(1.0, numerator / ((n + 1.0 - 2.0 / dimension) * above))


def variances_of_shares(
    shares: Float[np.ndarray, " axis"], count: Float[np.ndarray, " axis"]
) -> Float[np.ndarray, " axis"]:
    """Return the variances λ, of sum 1, of which the directions of Gaussian noise have these shares of variance s.

    ``count`` says how many dimensions have each share; those of none have none.
    """
    x = np.exp(GRID)[:, None]
    variances = shares / (count @ shares)
    for _ in range(ITERATIONS):
        stretched = 1.0 + 2.0 * variances * x
        density = np.exp(-0.5 * np.log(stretched) @ count)
        expected = ((variances * x / stretched) * density[:, None]).sum(axis=0) * (GRID[1] - GRID[0])
        ratio = shares / (count @ shares) / np.maximum(expected, TINY)
        variances = variances * ratio
        variances = variances / (count @ variances)
        if np.abs(ratio[count > 0] - 1.0).max() < ACCURACY:
            break
    return variances


def _largest(rows: Float[np.ndarray, "row entry"], rank: int) -> Float[np.ndarray, "axis entry"]:
    """Return the largest of the axes of Σ row rowᵀ, each as long as the root of its variance."""
    # Rows are few and may be long: their products have the same variances, and turn them into the axes.
    _, turns = np.linalg.eigh(rows @ rows.T)
    return turns[:, ::-1][:, :rank].T @ rows
