"""How long impacts persist, and what increments over whole intervals miss of them.

Part of an impact fluctuates and relaxes: residuals feed back on the features that make them. Over an interval Δ that is
long against its relaxation time τ, features move by the fluctuation once, not by its rate times Δ, and least squares,
which expects the latter, finds too small a γ. How much is missed shows in the impacts alone. With the persisting part
and an Ornstein–Uhlenbeck fluctuation, the cosine between impacts at lags Δ and 2Δ falls short of one by

    f(Δ) = f∞(1 − e^{−x}),        f(2Δ)/f(Δ) = 1 + e^{−x},        x = Δ/τ,

which gives x. Impacts also shrink, for they are what drift uses up: ⟨h(0), h(Δ)⟩ = (1 − m)|h(0)|². Of m, f is the
fluctuation's and m − f that of the persisting part, which takes it at a steady rate. At its first rate the fluctuation
would have taken f x/(1 − e^{−x}); features move in proportion to what they take from impacts, so that of the γ of one
step the share

    L = 1 − m/(m − f + f x/(1 − e^{−x}))

is missed by increments over Δ. L is 0 where nothing fluctuates (f = 0) and where intervals are short (x → 0). It is too
small where part of the fluctuation has relaxed within one interval already, and another part has not at two. It is an
estimate, uncertain by 0.1 or so where records are few; and with momentum impacts turn without γ being missed.

tests/lesde_infer/test_persistence.py checks it by closed form and on simulated impacts.
"""

import numpy as np
from jaxtyping import Float, Int

PERSISTENCE_SHARE = 0.02  # of the record, before and after, over which persistence is averaged
LOSS_SHARE = 0.05  # the same for what is missed: a ratio of small differences takes more
LIKE_LENGTHS = 1.5  # ratio of neighbouring intervals, as which they are of one length
LONGEST = 7.0  # x, beyond which e^{−x} is below a thousandth


def persistence(products: Float[np.ndarray, "time 3"]) -> Float[np.ndarray, " time"]:
    """Return the cosine between impacts at an interval's start and at its end; 1 where impacts vanish.

    Parameters
    ----------
    products : array, shape (time, 3)
        Product of the impacts' contrasts at both ends, and their squares.
    """
    return _cosine(_nearby(products, max(2, round(PERSISTENCE_SHARE * len(products)))))


def interval_loss(
    products: Float[np.ndarray, "time 3"], lagged: Float[np.ndarray, "time 3"]
) -> Float[np.ndarray, " time"]:
    """Return the share L of the γ of one step that increments over whole intervals miss: see the module's docstring.

    Parameters
    ----------
    products : array, shape (time, 3)
        Product of the impacts' contrasts at both ends of each interval, and their squares.
    lagged : array, shape (time, 3)
        The same between the start of the interval before and the end of this one; zero where that is not as long.
    """
    reach = max(4, round(LOSS_SHARE * len(products)))
    own, twofold = _nearby(products, reach), _nearby(lagged, reach)
    short, long = 1.0 - _cosine(own), 1.0 - _cosine(twofold)
    fluctuating = short > 1e3 * np.finfo(np.float64).eps  # cosines are known no better
    told = fluctuating & (twofold[:, 1] > 0) & (twofold[:, 2] > 0)
    survives = np.divide(long, short, out=np.full_like(short, 2.0), where=told) - 1.0
    x = -np.log(np.clip(survives, np.exp(-LONGEST), 1.0))
    taken = np.divide(own[:, 1] - own[:, 0], own[:, 1], out=np.zeros_like(short), where=own[:, 1] > 0)
    taken = np.maximum(taken, short)  # impacts that grow take nothing
    at_once = short * np.divide(x, -np.expm1(-x), out=np.ones_like(x), where=x > 0)
    return np.where(fluctuating, 1.0 - taken / np.maximum(taken - short + at_once, np.finfo(np.float64).tiny), 0.0)


def over_two(
    products: Float[np.ndarray, "time 3"],
    two_apart: dict[int, float],
    starts: Int[np.ndarray, " time"],
    times: Float[np.ndarray, " record"],
) -> Float[np.ndarray, "time 3"]:
    """Return products of impacts over two intervals of like length, at the second; 0 where there are no two.

    ``two_apart`` holds, at the record where an interval stops, the product of the impact there with that two records
    before.
    """
    lengths, found = times[starts + 1] - times[starts], np.zeros_like(products)
    alike = np.maximum(lengths[1:], lengths[:-1]) < LIKE_LENGTHS * np.minimum(lengths[1:], lengths[:-1])
    for second in 1 + np.flatnonzero(alike & (np.diff(starts) == 1)):
        found[second] = two_apart[int(starts[second]) + 1], products[second - 1, 1], products[second, 2]
    return found


def _nearby(products: Float[np.ndarray, "time 3"], reach: int) -> Float[np.ndarray, "time 3"]:
    """Sum over intervals nearby, each sum of its own: differences of running totals would lose impacts that decay."""
    window = np.ones(2 * reach + 1)
    return np.stack([np.convolve(column, window)[reach : reach + len(products)] for column in products.T], axis=1)


def _cosine(sums: Float[np.ndarray, "time 3"]) -> Float[np.ndarray, " time"]:
    scale = np.sqrt(sums[:, 1]) * np.sqrt(sums[:, 2])
    return np.divide(sums[:, 0], scale, out=np.ones(len(sums)), where=scale > 0)
