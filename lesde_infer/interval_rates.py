"""Rates and noise that drive the LE-SDE in each interval between two records, for each posterior draw."""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from jaxtyping import ArrayLike, Float, Int

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
        Rate κ at which deviations from the class mean grow, per unit of time; along the span of the class means where
        `kappa_across` is given.
    global_sd, class_sd, impact_sd, individual_sd
        Standard deviation of the whole interval's noise per feature component, in units of the features,
        before the Student-t factor. `class_sd` is that of contrasts between classes across the direction in which
        their drift moves them, `impact_sd` that along it. Under L, or with a pattern, `class_sd` is that all around.
    global_dof, class_dof, impact_dof, individual_dof
        Degrees of freedom ν > 0 of each stratum; infinity is Gaussian noise.
    pattern
        Where elasticity E is a matrix, E less the mean of each of its columns, per unit of time; `gamma` is then
        the trace of this over K − 1. None if E is homogeneous.
    kappa_across, individual_sd_across
        Growth and individual noise across the span of the class means (`lesde_infer.deviations`), both or neither;
        `kappa` and `individual_sd` are then those along it. None if deviations are alike in all directions.
    pull
        Rate η, in the unit of `gamma`, at which samples are moved by their own residuals besides what moves their class
        (`lesde_infer.deviations`); for impact R. None if they are not.

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
    impact_sd: Float[np.ndarray, "draw interval"]
    individual_sd: Float[np.ndarray, "draw interval"]
    global_dof: Float[np.ndarray, "draw"]
    class_dof: Float[np.ndarray, "draw"]
    impact_dof: Float[np.ndarray, "draw"]
    individual_dof: Float[np.ndarray, "draw"]
    pattern: Float[np.ndarray, "draw interval class_to class_from"] | None = None
    kappa_across: Float[np.ndarray, "draw interval"] | None = None
    individual_sd_across: Float[np.ndarray, "draw interval"] | None = None
    pull: Float[np.ndarray, "draw interval"] | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.gamma)
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"rates: gamma has shape {shape}; give one row per draw and one column per interval")
        for field in fields(self):
            if field.name == "pattern" or getattr(self, field.name) is None:
                continue
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
            elif "_sd" in field.name and np.any(values < 0):
                draw, interval = np.argwhere(values < 0)[0]
                raise InputError(f"rates: {field.name} is negative in draw {draw}, interval {interval}; give a scale")

        if (self.kappa_across is None) != (self.individual_sd_across is None):
            raise InputError("rates: give both kappa_across and individual_sd_across, or neither")
        self._check_pattern(shape)

    def _check_pattern(self, shape: tuple[int, ...]) -> None:
        if self.pattern is None:
            return
        found = np.shape(self.pattern)
        if len(found) != 4 or found[:2] != shape or found[2] != found[3]:
            raise InputError(f"rates: pattern has shape {found}; give a square matrix for each draw and interval")
        if not np.all(np.isfinite(self.pattern)):
            draw, interval = np.argwhere(~np.isfinite(self.pattern))[0, :2]
            raise InputError(f"rates: pattern is not finite in draw {draw}, interval {interval}")

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
        kappa_across: Float[ArrayLike, "draw interval"] | None = None,
        individual_sd_across: Float[ArrayLike, "draw interval"] | None = None,
        pull: Float[ArrayLike, "draw interval"] | None = None,
    ) -> Self:
        """Build rates from α and β of homogeneous elasticity among K classes; contrasts have one noise all around."""
        diagonal, off_diagonal = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
        return cls(
            gamma=diagonal - off_diagonal,
            global_rate=(diagonal + (n_classes - 1) * off_diagonal) / n_classes,
            kappa=np.asarray(kappa),
            global_sd=np.asarray(global_sd),
            class_sd=np.asarray(class_sd),
            impact_sd=np.asarray(class_sd),
            individual_sd=np.asarray(individual_sd),
            global_dof=np.asarray(global_dof),
            class_dof=np.asarray(class_dof),
            impact_dof=np.asarray(class_dof),
            individual_dof=np.asarray(individual_dof),
            kappa_across=None if kappa_across is None else np.asarray(kappa_across),
            individual_sd_across=None if individual_sd_across is None else np.asarray(individual_sd_across),
            pull=None if pull is None else np.asarray(pull),
        )

    def of_draws(self, draws: Int[np.ndarray, "chosen"]) -> Self:
        """Return the rates of some of the draws."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            chosen[field.name] = None if values is None else values[draws]
        return type(self)(**chosen)

    @property
    def deviation_parts(
        self,
    ) -> tuple[Float[np.ndarray, "draw part interval"], Float[np.ndarray, "draw part interval"]]:
        """κ and individual noise by part of the deviations: one part, or those along and across the class means."""
        if self.kappa_across is None or self.individual_sd_across is None:
            return self.kappa[:, None], self.individual_sd[:, None]
        sd = np.stack([self.individual_sd, self.individual_sd_across], axis=1)
        return np.stack([self.kappa, self.kappa_across], axis=1), sd

    @property
    def n_draws(self) -> int:
        """Number of posterior draws."""
        return int(self.gamma.shape[0])

    @property
    def n_intervals(self) -> int:
        """Number of intervals, one less than the number of records."""
        return int(self.gamma.shape[1])
