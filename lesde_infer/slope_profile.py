"""Where whitened weights lie given b, the slope of step sizes: the mode of all else, followed as b moves.

From the mode (`lesde_infer.mode`) one b at a time is moved up and down in steps of s = arcsinh((1 − b)/ε), shares of
the distance from one, at first as short as the density asks for and then longer and longer. All other parameters climb
to their mode given b, starting where the last steps point, until the log density has fallen by `FAR`. Both b are then
moved together. `lesde_infer.size_lean` says what is made of it: a regression of weights on features of b, weighted by
the root of the density, so that what lies far out counts but little.

The ε that is then taken for the coordinate of b is as far as the density reaches from one, seen from below: where it
ends at 0.9, 1 − b is never less than 0.1; where it reaches 1.3, b must not be squeezed within that.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Array, Float

from lesde_infer._jax import jnp
from lesde_infer.mode import descend, objective
from lesde_infer.model import StrataData
from lesde_infer.size_lean import SizeLean, slope_features
from lesde_infer.stretched_normal import Stretch
from lesde_infer.variant import Points, Position, Variant

SITE, WEIGHTS = "size_slope", "curve_weights_whitened"
ITERATIONS, TOLERANCE = 100, 0.003  # of a climb, in iterations and in log density
STEP, SHORTER, LONGER = 0.25, 0.4, 1.2  # first step of a walk, in s; what it is changed by
LITTLE = 1.5  # fall of the log density by a first step, at most
MOST_SHORTENINGS, MOST_STEPS = 6, 20
TOGETHER = (0.6, 1.0, 1.6)  # of the steps at which the density has fallen by `NOTICED`
NOTICED = 0.5
FAR, FURTHEST = 6.0, 12.0  # fall of the log density at which a walk ends, and that counts in the regression
LOWEST, HIGHEST = -1.5, 2.5  # of b: four standard deviations of its prior about its mean
LEAST_STRETCH = 0.01  # ε; 1 + b q is no less at b = 1 (`lesde_infer.assembly.LEAST_RELATIVE_SIZE`)
RIDGE, TINY = 1e-6, 1e-100  # of the regression


@dataclass
class _Profile:
    """The mode of all else, given b, and where it was looked for: s, weights and fall of the log density."""

    variant: Variant
    data: StrataData
    stretch: Float[np.ndarray, " slope"]
    points: Points
    mode: Position
    height: float = 0.0
    visited: list[Float[np.ndarray, " slope"]] = field(default_factory=list)
    weights: list[Float[np.ndarray, "curve weight"]] = field(default_factory=list)
    falls: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Take the mode for what others are compared with."""
        slope = Stretch(self.stretch)(self.mode[SITE].ravel())
        self.start = np.asarray(Stretch(LEAST_STRETCH).inv(slope))
        self.height = self._minus_log_density(self.mode)

    def climb(self, at: Float[np.ndarray, " slope"], start: Position) -> tuple[Position, float]:
        """Find the mode given b, and keep it; return it and how far the log density has fallen."""
        held = Stretch(self.stretch).inv(jnp.asarray(slope_at(at)))
        start = {**start, SITE: held.reshape(start[SITE].shape)}
        found = descend(self.variant, self.data, self.points, start, ITERATIONS, held=SITE, tolerance=TOLERANCE)
        fall = self._minus_log_density(found) - self.height
        self.visited.append(at)
        self.weights.append(np.asarray(found[WEIGHTS]))
        self.falls.append(fall)
        return found, fall

    def walk(self, direction: Float[np.ndarray, " slope"]) -> tuple[float, float]:
        """Move b until the density has fallen; return how far that is noticed, and how far the walk went, in s."""
        for shortened in range(MOST_SHORTENINGS):
            step = STEP * SHORTER**shortened
            found, fall = self.climb(self.start + step * direction, self.mode)
            if fall <= LITTLE:
                break
        known, distance, noticed = [(0.0, self.mode), (step, found)], step, 0.0
        while len(known) < MOST_STEPS and fall <= FAR:
            noticed = distance if fall <= NOTICED or not noticed else noticed
            step *= LONGER
            distance += step
            at = self.start + distance * direction
            if not np.all((slope_at(at) > LOWEST) & (slope_at(at) < HIGHEST)):
                break
            found, fall = self.climb(at, _pointed(known[-2:], distance))
            known.append((distance, found))
        return noticed or known[1][0], known[-1][0]

    def _minus_log_density(self, position: Position) -> float:
        volume = Stretch(self.stretch).log_abs_det_jacobian(position[SITE], None).sum()  # of the coordinate of b
        value = objective(self.variant)(position, self.data, self.points)[0] + volume
        return float(value) if np.isfinite(value) else np.inf


def slope_at(at: Float[np.ndarray, "*batch slope"]) -> Float[np.ndarray, "*batch slope"]:
    """Return b at s."""
    return np.asarray(Stretch(LEAST_STRETCH)(at))


def follow_slope(variant: Variant, data: StrataData, mode: Position, points: Points) -> tuple[Position, StrataData]:
    """Return the mode and the data of a stratum, with coordinates that follow b.

    Parameters
    ----------
    variant : Variant
        Strata whose drift depends on sizes.
    data : StrataData
        Their data, without a lean so far.
    mode, points
        The mode, and the whitening there.

    Raises
    ------
    ValueError
        If the drift does not depend on sizes.
    """
    if data.lean is None:
        raise ValueError("the drift of these strata does not depend on sizes")
    profile = _Profile(variant, data, np.asarray(data.lean.stretch), points, mode)
    steps, highest = [], []
    for direction in np.eye(len(profile.start)):
        up, furthest = profile.walk(-direction)
        down, _ = profile.walk(direction)
        steps.append((-up, down))
        highest.append(slope_at(profile.start - furthest * direction) @ direction)
    if len(steps) > 1:
        for step in np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, len(steps)):
            for share in TOGETHER:
                profile.climb(profile.start + share * step, mode)
    stretch = np.maximum(np.abs(np.array(highest) - 1.0), LEAST_STRETCH)
    centre = np.asarray(Stretch(stretch).inv(slope_at(profile.start)))
    mode = {**mode, SITE: jnp.asarray(centre).reshape(mode[SITE].shape)}
    return mode, data._replace(lean=_regressed(profile, stretch, centre))


def _pointed(known: list[tuple[float, Position]], distance: float) -> Position:
    """Return where the last two modes point."""
    (before, first), (last, second) = known
    share = (distance - last) / (last - before)
    ends = {name: (np.asarray(first[name]), np.asarray(value)) for name, value in second.items()}
    return {name: jnp.asarray(stop + share * (stop - start)) for name, (start, stop) in ends.items()}


def _regressed(
    profile: _Profile, stretch: Float[np.ndarray, " slope"], centre: Float[np.ndarray, " slope"]
) -> SizeLean:
    """Lay a polynomial through the weights."""
    n_curves, n_weights = profile.mode[WEIGHTS].shape
    kept = np.array(profile.falls) <= FURTHEST
    moved = np.asarray(Stretch(stretch).inv(slope_at(np.array(profile.visited)[kept]))) - centre
    reach = np.concatenate([moved, np.zeros((1, len(centre)))])
    root = np.exp(-0.25 * np.maximum(np.array(profile.falls)[kept], 0.0))[:, None]  # of the weight
    n_features = len(slope_features(jnp.asarray(centre)))
    features = root * np.array([slope_features(jnp.asarray(own)) for own in moved]).reshape(-1, n_features)
    weights = root * np.array(profile.weights)[kept].reshape(-1, n_curves * n_weights)
    size = np.maximum(np.sqrt((features**2).sum(axis=0)), TINY)  # features differ by orders of magnitude
    scaled = features / size
    products = scaled.T @ scaled + RIDGE * np.eye(n_features)
    coefficients = np.linalg.solve(products, scaled.T @ weights) / size[:, None]
    shift: Float[Array, "feature curve weight"] = jnp.asarray(coefficients).reshape(n_features, n_curves, n_weights)
    return SizeLean(
        jnp.asarray(stretch), jnp.asarray(centre), jnp.asarray(reach.min(0)), jnp.asarray(reach.max(0)), shift
    )
