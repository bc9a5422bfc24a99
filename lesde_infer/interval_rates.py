"""Rates and noise that drive the LE-SDE in each interval between two records, for each posterior draw."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from jaxtyping import ArrayLike, Float

from data_tools.errors import InputError


@dataclass(frozen=True)
class IntervalRates:
    """What drives each interval between two records, for each posterior draw.

    Parameters
    ----------
    gamma
        Separation rate γ = α − β, per unit of time; contrasts between classes follow γ/K.
    global_rate
        Rate g = (α + (K−1) β)/K of the mean of the class means, per unit of time.
    kappa
        Rate κ at which deviations from the class mean grow, per unit of time.
    global_sd, class_sd, individual_sd
        Standard deviation of the whole interval's noise per feature component, in units of the features,
        before the Student-t factor.
    global_dof, class_dof, individual_dof
        Degrees of freedom ν > 0 of each stratum; infinity is Gaussian noise.

    Raises
    ------
    InputError
        Where shapes differ, a number is not finite, a standard deviation is negative, or ν is not positive.
    """

    gamma: Float[np.ndarray, "draw interval"]
    global_rate: Float[np.ndarray, "draw interval"]
    kappa: Float[np.ndarray, "draw interval"]
    global_sd: Float[np.ndarray, "draw interval"]
    class_sd: Float[np.ndarray, "draw interval"]
    individual_sd: Float[np.ndarray, "draw interval"]
    global_dof: Float[np.ndarray, "draw"]
    class_dof: Float[np.ndarray, "draw"]
    individual_dof: Float[np.ndarray, "draw"]

    def __post_init__(self) -> None:
        shape = np.shape(self.gamma)
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"rates: gamma has shape {shape}; give one row per draw and one column per interval")
        for field in fields(self):
            values = np.asarray(getattr(self, field.name), dtype=np.float64)
            object.__setattr__(self, field.name, values)
            expected = shape[:1] if field.name.endswith("_dof") else shape
            if values.shape != expected:
                raise InputError(f"rates: {field.name} has shape {values.shape}, but gamma asks for {expected}")
            if field.name.endswith("_dof"):
                if not np.all(values > 0):
                    raise InputError(f"rates: {field.name} must be positive; infinity stands for Gaussian noise")
            elif not np.all(np.isfinite(values)):
                draw, interval = np.argwhere(~np.isfinite(values))[0]
                raise InputError(f"rates: {field.name} is not finite in draw {draw}, interval {interval}")
            elif field.name.endswith("_sd") and np.any(values < 0):
                draw, interval = np.argwhere(values < 0)[0]
                raise InputError(f"rates: {field.name} is negative in draw {draw}, interval {interval}; give a scale")

    @classmethod
    def from_elasticity(
        cls,
        alpha: Float[ArrayLike, "draw interval"],
        beta: Float[ArrayLike, "draw interval"],
        kappa: Float[ArrayLike, "draw interval"],
        *,
        n_classes: int,
        global_sd: Float[ArrayLike, "draw interval"],
        class_sd: Float[ArrayLike, "draw interval"],
        individual_sd: Float[ArrayLike, "draw interval"],
        global_dof: Float[ArrayLike, "draw"],
        class_dof: Float[ArrayLike, "draw"],
        individual_dof: Float[ArrayLike, "draw"],
    ) -> Self:
        """Build rates from the diagonal α and the off-diagonal β of homogeneous elasticity among K classes."""
        diagonal, off_diagonal = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
        return cls(
            gamma=diagonal - off_diagonal,
            global_rate=(diagonal + (n_classes - 1) * off_diagonal) / n_classes,
            kappa=np.asarray(kappa),
            global_sd=np.asarray(global_sd),
            class_sd=np.asarray(class_sd),
            individual_sd=np.asarray(individual_sd),
            global_dof=np.asarray(global_dof),
            class_dof=np.asarray(class_dof),
            individual_dof=np.asarray(individual_dof),
        )

    @property
    def n_draws(self) -> int:
        """Number of posterior draws."""
        return int(self.gamma.shape[0])

    @property
    def n_intervals(self) -> int:
        """Number of intervals, one less than the number of records."""
        return int(self.gamma.shape[1])
