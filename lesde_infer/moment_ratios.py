"""Integrals of α and β from class means, and their tail indices: the equations of `lesde_infer.moments`."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

MomentImpact = Literal["I", "L"]

TAIL_STEPS, TAIL_SHARE = 1000, 0.1


@dataclass(frozen=True)
class TailIndex:
    """The paper's tail index of α or β.

    Attributes
    ----------
    value : float
        1 − mean of log Â(t)/log t over late records; NaN where no late value of Â(t) is positive.
    flipped : bool
        Whether Â was negative on most late records, so that the index is that of −Â.
    n_records, n_undefined : int
        Late records, and those left out since Â(t), flipped where it is, is not positive there.
    """

    value: float
    flipped: bool
    n_records: int
    n_undefined: int


def tail_index(integral: Float[np.ndarray, " record"], steps: Int[np.ndarray, " record"]) -> TailIndex:
    """Return the paper's tail index of a rate, from its integral since the first record.

    r̂ = 1 − mean of log Â(t)/log t over the last 1,000 steps, or the last tenth of a record shorter than 10,000 steps;
    −Â takes the place of Â where that is negative on more than half of these records.
    """
    elapsed = (steps - steps[0]).astype(np.float64)
    late = (elapsed >= elapsed[-1] - min(TAIL_STEPS, TAIL_SHARE * elapsed[-1])) & (elapsed > 1.0)
    values, log_time = integral[late], np.log(elapsed[late])
    flipped = bool(np.count_nonzero(values < 0) > len(values) / 2)
    values = -values if flipped else values
    defined = values > 0
    n_defined = int(np.count_nonzero(defined))
    index = 1.0 - float(np.mean(np.log(values[defined]) / log_time[defined])) if n_defined else float("nan")
    return TailIndex(index, flipped, len(values), len(values) - n_defined)


class Integrals(NamedTuple):
    """Estimates of ∫α and ∫β, and what became of the ratios behind them."""

    A: Float[np.ndarray, " record"]
    B: Float[np.ndarray, " record"]
    reversed_share: Float[np.ndarray, " record"]
    n_ratios: int
    n_left_out: int


def integrals(means: Float[np.ndarray, "record class_ feature"], impact: MomentImpact, resolution: float) -> Integrals:
    """Estimate ∫α and ∫β by the closed forms of a model: see the module's docstring."""
    K, floor = means.shape[1], resolution * float(np.abs(means[0]).max())
    if impact == "I":
        centre = means.mean(axis=1)
        contrasts = (means - centre[:, None]).reshape(len(means), -1)
        (common, differing), reversals, usable = _log_sizes((centre, contrasts), floor)
        A, B = common + (K - 1) * differing, common - differing
    else:
        amplitudes = np.einsum("kf,tkf->tk", np.eye(K) - 1.0 / K, means)
        projection = amplitudes.mean(axis=1, keepdims=True)
        deviations = amplitudes - projection
        spread = np.linalg.norm(deviations, axis=1, keepdims=True)
        (common, differing), reversals, usable = _log_sizes((projection, spread), floor)
        reversals[:, 1] = usable[1] & (deviations @ deviations[0] < 0)
        A, B = common + (K - 1) * differing, (K - 1) * (differing - common)
    share = reversals[:, usable].mean(axis=1) if usable.any() else np.zeros(len(means))
    return Integrals(A, B, share, len(usable), int(np.count_nonzero(~usable)))


def _log_sizes(
    groups: tuple[Float[np.ndarray, "record _"], ...], floor: float
) -> tuple[list[Float[np.ndarray, " record"]], Bool[np.ndarray, "record ratio"], Bool[np.ndarray, " ratio"]]:
    """Average log |x(t)/x(0)| over each group of quantities x that are defined at all records.

    Returns the averages (NaN for a group without any), which ratios are negative, and which are defined.
    """
    averages, reversals, usable = [], [], []
    for values in groups:
        defined = (np.abs(values[0]) > floor) & (values != 0).all(axis=0)
        ratios = values[:, defined] / values[0, defined]
        averages.append(np.log(np.abs(ratios)).mean(axis=1) if defined.any() else np.full(len(values), np.nan))
        reversals.append(values * np.sign(values[0]) < 0)
        usable.append(defined)
    return averages, np.concatenate(reversals, axis=1), np.concatenate(usable)
