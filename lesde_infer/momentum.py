"""What drives a step of gradient descent with momentum: impacts as its velocity remembers them.

With v_{n+1} = m v_n + g_n and a step of −lr v_{n+1} (PyTorch's SGD without dampening or Nesterov's variant), the drift
of step n is lr/(1 − m) times elasticity applied to the filtered impact

    f_n = (1 − m) Σ_{j≥0} m^j h_{n−j},

with a memory of 1/(1 − m) steps. Where impacts change within that memory, increments follow f and not h. Impacts are
known at records only. Taken to be constant from one record to the next, n steps later, the velocity's part
s = (1 − m) Σ_{j≥1} m^{j−1} h_{−j} before the interval's first step, and the mean of f over its n steps, are

    s' = m^n s + (1 − m^n) h,        d = q s + (1 − q) h,        q = m (1 − m^n)/((1 − m) n),

and d is the drive of the interval: f itself for n = 1, h for m = 0 or n → ∞. At optimizer step 0 the velocity is zero,
and so is s; in a record that starts later, s is taken to be the first h. Impacts that are unknown at a record
(`lesde_infer.missing`) are taken to be still those of the last that is known.

Within an interval the share q of the drive does not answer to how far features have moved; feedback is therefore
reduced to 1 − q of what it is. Against the memory's length τ that vanishes as n/2τ, where n/3τ would be right, and is
whole for n ≫ τ.

Whether to filter is a choice: `drive` is ``instantaneous`` (h), ``filtered`` (d) or ``auto``, which filters where a
momentum is recorded and at least half of all steps lie in intervals shorter than the memory: for evenly spaced records,
where the interval is. Bursts do not count, since what the velocity remembers lies in the gaps between them. Under L,
whose closed form is of amplitudes and not of directions, impacts are always instantaneous. γ means the same either way:
the rate per unit of time of an impact that lasts, 1/(1 − m) included. Replications (`lesde_infer.predictive`) know no
memory.

tests/lesde_infer/test_momentum.py trains linear networks, whose elasticity is known exactly.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_schema import AttributeValue
from lesde_infer.impacts import Impact
from lesde_infer.time_axis import recorded_momentum

DriveChoice = Literal["auto", "instantaneous", "filtered"]
Drive = Literal["instantaneous", "filtered"]


class Velocity:
    """What the velocity remembers of the impacts at records, which are shown in order.

    Parameters
    ----------
    momentum : float
        m, from 0 to below 1.

    Attributes
    ----------
    momentum : float
        m.
    remembered, impacts : array
        s and h at the record that was shown last.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self._step: int | None = None
        self.remembered = self.impacts = np.zeros(0)

    def show(self, step: int, impacts: Float[np.ndarray, "class_ value"]) -> None:
        """Go on to a record."""
        if self._step is None:
            remembered = 0.0 * impacts if step == 0 else impacts
        else:
            kept = self.momentum ** (step - self._step)
            remembered = kept * self.remembered + (1 - kept) * self.impacts
        self.restore(step, remembered, impacts)

    def restore(
        self, step: int, remembered: Float[np.ndarray, "class_ value"], impacts: Float[np.ndarray, "class_ value"]
    ) -> None:
        """Set s and h at a record."""
        self._step, self.remembered, self.impacts = step, remembered, impacts

    def drive(self, n_steps: int) -> tuple[Float[np.ndarray, "class_ value"], float]:
        """Return the mean drive d of an interval of so many steps that starts at the record, and 1 − q."""
        m = self.momentum
        share = m * (1 - m**n_steps) / ((1 - m) * n_steps)
        return share * self.remembered + (1 - share) * self.impacts, 1 - share


class MomentumFilter:
    """Turns the impacts at records, in order, into the drives of the intervals that start there.

    Parameters
    ----------
    momentum : float
        m, from 0 to below 1.
    steps : array, shape (record,)
        Optimizer steps of the records.

    Attributes
    ----------
    momentum : float
        m.
    """

    def __init__(self, momentum: float, steps: Int[np.ndarray, " record"]) -> None:
        self.momentum, self._steps = momentum, steps
        self._velocity = Velocity(momentum)

    def drive(
        self, record: int, impacts: Float[np.ndarray, "class_ value"]
    ) -> tuple[Float[np.ndarray, "class_ value"], float]:
        """Return the mean drive d of the interval that starts at a record, and 1 − q, the share of it that is h.

        Records come in order; where some are left out, their impacts are those of the last one before.
        """
        self._velocity.show(int(self._steps[record]), impacts)
        start = min(record, len(self._steps) - 2)  # the last record starts no interval; that before it stands for it
        return self._velocity.drive(int(self._steps[start + 1] - self._steps[start]))


def momentum_filter(
    recording: Recording, choice: DriveChoice, impact: Impact, steps: Int[np.ndarray, " record"]
) -> MomentumFilter | None:
    """Return the filter of a run's impacts, or None for instantaneous ones: see the module's docstring.

    Parameters
    ----------
    recording : Recording
        Its provenance holds ``momentum``, if there was any, and maybe ``nesterov`` and ``dampening``.
    choice : {"auto", "instantaneous", "filtered"}
        What is asked for.
    impact : {"I", "L", "R"}
        Impact of the fit.
    steps : array, shape (record,)
        Optimizer steps of the records that are used.

    Raises
    ------
    InputError
        If filtering is asked for, and the momentum is not recorded, or zero, or not that of plain SGD; or impact is L.
    """
    if choice == "instantaneous":
        return None
    reason = _why_not(recording.provenance, impact)
    if reason is not None:
        if choice == "filtered":
            raise InputError(f"{recording.path}: {reason}; use --drive instantaneous")
        return None
    momentum = recorded_momentum(recording)
    lengths = np.diff(steps)
    dense = lengths[lengths < 1 / (1 - momentum)].sum() >= lengths.sum() / 2
    return MomentumFilter(momentum, steps) if dense or choice == "filtered" else None


def filtered_momentum(provenance: Mapping[str, AttributeValue], impact: Impact) -> float | None:
    """Return the momentum by whose memory the impacts of a run of a provenance can be filtered, or None."""
    return float(provenance["momentum"]) if _why_not(provenance, impact) is None else None


def _why_not(provenance: Mapping[str, AttributeValue], impact: Impact) -> str | None:
    """Say why the drive of a run cannot be filtered, or return None."""
    momentum = provenance.get("momentum", 0.0)
    if isinstance(momentum, str | bool) or not 0 < momentum < 1:
        return (
            f"a filtered drive takes a momentum between 0 and 1, and recorded is {provenance.get('momentum', 'none')}"
        )
    if provenance.get("nesterov") or provenance.get("dampening"):
        return "the drive is filtered for plain momentum, and recorded is one with Nesterov's variant or dampening"
    if impact == "L":
        return "impact L has no filtered drive"
    return None
