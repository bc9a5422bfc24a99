"""How much of the drift that was measured on the live network a fit accounts for.

The one-step drift D of the class means is compared, as one long vector over snapshots, contrasts between classes and
features, with what elasticity C(t) makes of the measured impacts h: contrast D ∝ C(t) h. The share explained is the
squared cosine between the two, which leaves a common factor open: the size of elasticity is held against the
measurement elsewhere (`lesde_infer.truth`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from data_tools.drift_measures import contrasts, mean_drift
from data_tools.recorded_elasticity import RecordedElasticity
from lesde_infer.frequencies import class_weights
from lesde_infer.impacts import weighted

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

FOLDS = 10  # into which measurements are divided, to fit a matrix to some and try it on the others


@dataclass(frozen=True)
class ExplainedDrift:
    """Shares of the measured drift of contrasts in the second half of the record; without unit, 0 to 1.

    Attributes
    ----------
    matrix : float or None
        Squared cosine with C(t) h, C(t) the posterior mean; None where elasticity was fitted as homogeneous.
    homogeneous : float
        With γ(t) · contrast h, γ the posterior mean of the separation rate.
    best_constant_matrix : float
        With C h for the constant matrix C that least squares fits to the measurement itself. No constant matrix
        explains more, and this one explains more than the truth would: it fits the noise of the measurement too.
    held_out_constant_matrix : float
        The same with C fitted anew without every tenth measurement for those that were left out: what of it is not
        noise. Not a number if there is but one measurement.
    n_snapshots : int
        Measurements compared.
    """

    matrix: float | None
    homogeneous: float
    best_constant_matrix: float
    held_out_constant_matrix: float
    n_snapshots: int


def explained_drift(fit: "Fit", measured: RecordedElasticity) -> ExplainedDrift | None:
    """Return the shares of the measured drift that elasticity explains, or None if none was measured late enough.

    Parameters
    ----------
    fit : Fit
        Of impact R; rates per unit of its time are converted to rates per optimizer step.
    measured : RecordedElasticity
        Of the layer and grouping that was fitted, with impacts; its recording has to be open.

    Raises
    ------
    InputError
        If the measurement cannot be read.
    """
    weights = class_weights(fit.settings.class_frequencies)
    assert measured.impact is not None  # noqa: S101  (rates were computed from it before)
    first, last = int(fit.steps[0]), int(fit.steps[-1])
    late = np.flatnonzero((measured.steps >= (first + last) / 2) & (measured.steps <= last))
    if late.size == 0:
        return None
    drift, _ = mean_drift(measured.onestep[late], measured.shares)
    impact = weighted(np.asarray(measured.impact[late], dtype=np.float64).swapaxes(0, 1), weights).swapaxes(0, 1)
    starts = fit.interval_starts
    interval = np.searchsorted(fit.steps[starts], measured.steps[late], side="right") - 1
    within = (interval >= 0) & (measured.steps[late] <= fit.steps[starts[np.maximum(interval, 0)] + 1])
    # What was measured where intervals were dropped has no rate to be compared with.
    usable = np.isfinite(drift).all(axis=(1, 2)) & np.isfinite(impact).all(axis=(1, 2)) & within
    late, interval, drift, impact = late[usable], interval[usable], contrasts(drift[usable]), impact[usable]
    if late.size == 0 or not drift.any() or not impact.any():
        return None
    gamma = (fit.posterior["gamma"].mean(["chain", "draw"]).to_numpy() * time_per_step(fit))[interval]
    matrices = contrast_matrices(fit)
    return ExplainedDrift(
        matrix=None if matrices is None else squared_cosine(matrices[interval] @ impact, drift),
        homogeneous=squared_cosine(gamma[:, None, None] * contrasts(impact), drift),
        best_constant_matrix=squared_cosine(constant_matrix(impact, drift) @ impact, drift),
        held_out_constant_matrix=squared_cosine(held_out_drift(impact, drift), drift),
        n_snapshots=int(late.size),
    )


def constant_matrix(
    impact: Float[np.ndarray, "snapshot class_ feature"], drift: Float[np.ndarray, "snapshot class_ feature"]
) -> Float[np.ndarray, "class_ class_"]:
    """Return the matrix C that makes C h closest to the drift, by least squares."""
    gram = np.einsum("tkp,tlp->kl", impact, impact)
    return np.einsum("tkp,tlp->kl", drift, impact) @ np.linalg.pinv(gram, hermitian=True)


def held_out_drift(
    impact: Float[np.ndarray, "snapshot class_ feature"], drift: Float[np.ndarray, "snapshot class_ feature"]
) -> Float[np.ndarray, "snapshot class_ feature"]:
    """Return C h at each snapshot, C fitted without it and every tenth from it; not a number if it is the only one."""
    predicted = np.full_like(drift, np.nan)
    fold = np.arange(len(drift)) % FOLDS
    for own in np.unique(fold) if len(drift) > 1 else ():
        left_out = fold == own
        predicted[left_out] = constant_matrix(impact[~left_out], drift[~left_out]) @ impact[left_out]
    return predicted


def contrast_matrices(fit: "Fit") -> Float[np.ndarray, "time class_to class_from"] | None:
    """Return the posterior mean of C(t) per optimizer step at each interval, or None if elasticity is homogeneous.

    C(t) = s(t) (M₀ + x̃(t) M₁), see `lesde_infer.pattern_posterior`; M₁ is zero unless the pattern was let drift.
    """
    posterior = fit.posterior
    if "contrast_pattern" not in posterior:
        return None
    scale = posterior["pattern_scale"].transpose("time", "chain", "draw").to_numpy()
    scale = scale.reshape(len(scale), -1)

    def averaged(name: str) -> Float[np.ndarray, "time class_to class_from"]:
        pattern = posterior[name].transpose("chain", "draw", "class_to", "class_from").to_numpy()
        mean = scale @ pattern.reshape(scale.shape[1], -1) / scale.shape[1]
        return mean.reshape(-1, *pattern.shape[2:])

    mean = averaged("contrast_pattern")
    if "contrast_pattern_drift" in posterior:
        course = fit.data["constant_data"]["pattern_drift"].to_numpy()
        mean = mean + course[:, None, None] * averaged("contrast_pattern_drift")
    return mean * time_per_step(fit)[:, None, None]


def time_per_step(fit: "Fit") -> Float[np.ndarray, " time"]:
    """Return the time that an optimizer step takes in each interval: rates of the fit times this are per step."""
    starts = fit.interval_starts
    return (fit.times[starts + 1] - fit.times[starts]) / (fit.steps[starts + 1] - fit.steps[starts])


def squared_cosine(one: Float[np.ndarray, "*shape"], other: Float[np.ndarray, "*shape"]) -> float:
    """Return ⟨a, b⟩² / (|a|² |b|²) of two arrays as vectors; not a number if one vanishes."""
    a, b = one.ravel(), other.ravel()
    a, b = (vector / (np.abs(vector).max() or 1.0) for vector in (a, b))  # late drifts are small: squares might vanish
    sizes = (a @ a) * (b @ b)
    return float((a @ b) ** 2 / sizes) if sizes > 0 else float("nan")
