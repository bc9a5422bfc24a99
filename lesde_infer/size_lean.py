"""How a rate leans on b, the slope of step sizes (`lesde_infer.model`): what moves with b while the fit to data stays.

The drift of interval k is the rate times 1 + b q_k, and where quiet intervals (q near −1, little noise) tell most, they
tell the rate times 1 − b to a hundredth, say, and b to a tenth. Given b, the weights of the rate's curve are then known
far better than they are at all, and lie along a bent ridge: LeNet on digits, recorded in bursts, had whitened weights
that moved by 30 of their conditional standard deviations as log(1 − b) moved by two, and chains of 600 draws were
worth 40.

So coordinates follow the ridge. Let v = arcsinh((1 − b)/ε) less its value at the mode, of the shortest intervals and of
the longest (one number where intervals are alike), and e*(v) the whitened weights that are most probable given b. They
are found at some two dozen b around the mode (`lesde_infer.slope_profile`), and a polynomial of the third degree in v
is laid through them; chains then move e − e*(v), and v in place of b (`lesde_infer.stretched_normal`). v goes no
further than the polynomial was laid. Any function of b leaves the posterior as it is, since it only shifts coordinates
of unit volume: a bad one costs time. tests/lesde_infer/test_size_lean.py checks both.
"""

from typing import NamedTuple

from jaxtyping import Array, Float

from lesde_infer._jax import jnp
from lesde_infer.stretched_normal import Stretch


class SizeLean(NamedTuple):
    """How the curves of one stratum lean on b: of the shortest intervals and the longest, or of all.

    Attributes
    ----------
    stretch : array, shape (slope,)
        ε, within which of one b is not stretched.
    centre : array, shape (slope,)
        arcsinh((1 − b)/ε) at the mode.
    low, high : array, shape (slope,)
        Least and greatest v at which the polynomial serves.
    shift : array, shape (feature, curve, weight)
        Coefficients of e*.
    """

    stretch: Float[Array, " slope"]
    centre: Float[Array, " slope"]
    low: Float[Array, " slope"]
    high: Float[Array, " slope"]
    shift: Float[Array, "feature curve weight"]


def no_lean(n_slopes: int, n_curves: int, n_weights: int) -> SizeLean:
    """Return what is taken before a mode is known: no shift, and b next to linear in its coordinate."""
    zeros = jnp.zeros(n_slopes)
    n_features = len(slope_features(zeros))
    return SizeLean(zeros + 1.0, zeros, zeros, zeros, jnp.zeros((n_features, n_curves, n_weights)))


def slope_features(v: Float[Array, " slope"]) -> Float[Array, " feature"]:
    """Return v, v²/2 and v³/6 of each slope, and the product of two."""
    own = [v, v**2 / 2.0, v**3 / 6.0]
    return jnp.concatenate(own if len(v) == 1 else [*own, v[:1] * v[1:]])


def shift_of_weights(lean: SizeLean, slope: Float[Array, " slope"]) -> Float[Array, "curve weight"]:
    """Return e* given b."""
    v = Stretch(lean.stretch).inv(slope) - lean.centre
    return jnp.tensordot(slope_features(jnp.clip(v, lean.low, lean.high)), lean.shift, 1)
