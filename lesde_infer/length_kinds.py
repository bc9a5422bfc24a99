"""Intervals of one length share their degrees of freedom: what depends on these alone is computed once a length.

log Γ of the degrees of freedom, and its derivative, took a third of a gradient of a posterior. A recording in bursts
has two lengths of intervals, one on an adaptive schedule a dozen, so that ν (`lesde_infer.model`) takes few values.
What is computed of them is carried to the intervals by a matrix of zeros and ones, whose transpose carries derivatives
back. Numbers of lengths are rounded up to the next of `SIZES`, so that records of like schedules share a program; of
more than the last each interval has its own.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from lesde_infer._jax import jnp

SIZES = (1, 2, 4, 8, 16)


class LengthKinds(NamedTuple):
    """Lengths of intervals, as x of `lesde_infer.model`.

    Attributes
    ----------
    relative_length : array, shape (kind,)
        x of each length; the last is repeated.
    members : array, shape (time, kind)
        1 where an interval has that length.
    """

    relative_length: Float[Array, " kind"]
    members: Float[Array, "time kind"]


def length_kinds(relative_length: Float[np.ndarray, " time"]) -> LengthKinds | None:
    """Return the lengths of intervals; None where there are too many."""
    found, kinds = np.unique(relative_length, return_inverse=True)
    if len(found) > SIZES[-1]:
        return None
    size = next(size for size in SIZES if size >= len(found))
    padded = np.concatenate([found, np.repeat(found[-1:], size - len(found))])
    return LengthKinds(jnp.asarray(padded), jnp.asarray(np.eye(size)[kinds]))
