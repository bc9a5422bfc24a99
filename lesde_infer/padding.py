"""Records of like length as one shape, so that one compiled program serves them all.

A program is compiled for one number of intervals, which takes longer than most fits do. So intervals are added behind
the last, up to the next of a few lengths, that observe nothing: copies of the last one, marked so that their density is
1 whatever the parameters are. Posteriors do not change, and curves at those intervals are dropped from the draws.

Axes are found by their names in the annotations of the tuples that hold the arrays.
tests/lesde_infer/test_padding.py compares densities with and without.
"""

from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np

from lesde_infer._jax import jnp
from lesde_infer.model import StrataData

LEADING = (16, 20, 25)  # lengths, and all of these times a power of two, with 25 rounded up
TIME = "time"  # the axis

Arrays = TypeVar("Arrays", bound=NamedTuple)


def padded_length(n_intervals: int) -> int:
    """Return the next length from n on: 16, 20, 25, 32, 40, 50, 64 and so on, 28 % more at most; below 16, n itself."""
    if n_intervals < LEADING[0]:
        return n_intervals
    octave = int(np.log2(n_intervals / LEADING[0]))
    return min(
        length
        for power in (octave, octave + 1)
        for length in (2**power * own for own in LEADING)
        if length >= n_intervals
    )


def pad_intervals(data: StrataData) -> StrataData:
    """Return the data of a model with intervals behind the last that observe nothing."""
    n_intervals = len(data.lengths)
    padded = _along_time(data, lambda array, axis: _repeat_last(array, axis, padded_length(n_intervals) - n_intervals))
    observed = np.array(padded.observed)
    observed[:, n_intervals:] = 0.0
    return padded._replace(observed=jnp.asarray(observed))


def drop_padding(draws: Arrays, n_intervals: int) -> Arrays:
    """Return draws of parameters, whose axes may be led by those of chains and draws, at the first intervals only."""
    return _along_time(draws, lambda array, axis: array[(..., slice(n_intervals), *(slice(None),) * (-1 - axis))])


def _along_time(arrays: Arrays, change: Any) -> Arrays:
    """Apply a function of an array and its axis of time, counted from the end, to all arrays that have one."""
    changed: dict[str, Any] = {}
    for name, annotation in get_type_hints(type(arrays)).items():
        value = getattr(arrays, name)
        if hasattr(value, "_fields"):
            changed[name] = _along_time(value, change)
        elif TIME in (axes := getattr(annotation, "dim_str", "").split()):
            changed[name] = change(value, axes.index(TIME) - len(axes))
    return arrays._replace(**changed)


def _repeat_last(array: Any, axis: int, times: int) -> Any:
    known = np.asarray(array)  # NumPy has no program to compile for each shape
    last = np.take(known, [-1], axis=axis)
    return jnp.asarray(np.concatenate([known, np.repeat(last, times, axis=axis)], axis=axis))
