"""What simulations are modelled on: the design of a run, and priors that are scaled to it once and for all.

Priors are scaled to a run (`lesde_infer.priors`). Were they scaled anew to each simulation, its parameters would not be
drawn from the prior that it is fitted with, and nothing would be calibrated; so they stay those of the template.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from data_tools.recording import Recording
from lesde_infer._jax import jax
from lesde_infer.assembly import Stratum, Submodel, assemble
from lesde_infer.curves import Curve
from lesde_infer.deviations import Within
from lesde_infer.impacts import Elasticity, Impact
from lesde_infer.inference import check_supports
from lesde_infer.interval_lengths import has_mixed_intervals
from lesde_infer.simulation import simulate
from lesde_infer.snapshots import Grouping
from lesde_infer.statistics import Statistics, compute_statistics

# The simulated template.
CLASSES, SAMPLES_PER_CLASS, RECORDS, EVERY = 3, 20, 60, 20
CalibratedStrata = Literal["all", "class-means"]
CLASS_MEANS: frozenset[Stratum] = frozenset({"contrast", "class_noise", "shared"})
"""Strata of increments of class means. The others share no parameter with them, and are the same for every impact and
elasticity but for the pull, so that they need be calibrated once only."""

NOISE = 5e-3  # of every stratum, per square root of a step
DEGREES = 5.0


@dataclass(frozen=True)
class Template:
    """Design and priors that all simulations share.

    Attributes
    ----------
    statistics : Statistics
        Of the run that the template is; their increments are replaced in every simulation.
    elasticity, curve, within : str
        What is fitted, with the statistics' impact.
    submodels : tuple of Submodel
        Design, priors and the template's own increments.
    mixed : bool
        Whether short and long intervals alternate.
    """

    statistics: Statistics
    elasticity: Elasticity
    curve: Curve
    submodels: tuple[Submodel, ...]
    mixed: bool
    within: Within = "isotropic"

    @classmethod
    def of(
        cls,
        statistics: Statistics,
        curve: Curve,
        elasticity: Elasticity,
        within: Within = "isotropic",
        strata: CalibratedStrata = "all",
    ) -> "Template":
        """Return the template that a run is; noise will be simulated in all dimensions alike, and is fitted as such."""
        contrast, shared = (
            replace(stratum, effective_dimension=float(stratum.dimension))
            for stratum in (statistics.contrast, statistics.shared)
        )
        statistics = replace(statistics, contrast=contrast, shared=shared)
        submodels = tuple(
            submodel
            for submodel in assemble(statistics, curve, elasticity, within)
            if strata == "all" or CLASS_MEANS.issuperset(submodel.strata)
        )
        return cls(statistics, elasticity, curve, submodels, has_mixed_intervals(statistics), within)

    def digest(self) -> str:
        """Return a short hash of the design and the priors."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves([submodel.data for submodel in self.submodels]):
            found.update(np.asarray(leaf, dtype=np.float64).tobytes())
        return found.hexdigest()[:16]


def recorded_template(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    impact: Impact = "R",
    elasticity: Elasticity = "homogeneous",
    curve: Curve = "gp",
    group: Grouping = "labels",
    within: Within = "spanned",
    until: int | None = None,
    strata: CalibratedStrata = "all",
) -> Template:
    """Return the template that a recorded run is; arguments are those of `lesde_infer.inference.fit`.

    Of all submodels, or, with ``strata="class-means"``, of those of class means alone.

    Raises
    ------
    InputError
        If the recording does not support what is asked.
    """
    with Recording(path) as recording:
        statistics = compute_statistics(recording, recording.choose_layer(layer), impact, group=group, until=until)
    check_supports(statistics, curve, Path(path), elasticity)
    return Template.of(statistics, curve, elasticity, within, strata)


def simulated_template(
    *,
    impact: Impact = "R",
    elasticity: Elasticity = "homogeneous",
    curve: Curve = "gp",
    within: Within = "spanned",
    burst: int = 1,
    n_records: int = RECORDS,
    strata: CalibratedStrata = "all",
) -> Template:
    """Return a template of three classes that is simulated itself, always the same.

    Parameters
    ----------
    burst : int
        Consecutive records at a time; 1 spaces records evenly.
    n_records : int
        Number of records.
    strata : {"all", "class-means"}
        Submodels that are simulated and fitted.
    """
    steps = template_steps(n_records, burst)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.h5"
        rate = _template_rate(impact, float(steps[-1]))
        simulate(
            path,
            n_classes=CLASSES,
            samples_per_class=SAMPLES_PER_CLASS,
            steps=steps,
            alpha=lambda step: 0.8 * rate(step),
            beta=lambda step: -0.2 * rate(step),
            kappa=0.5 / float(steps[-1]),
            global_scale=NOISE,
            class_scale=NOISE,
            individual_scale=NOISE,
            impact=impact,
            dof=DEGREES,
        ).close()
        return recorded_template(path, impact=impact, elasticity=elasticity, curve=curve, within=within, strata=strata)


def template_steps(n_records: int, burst: int) -> Int[np.ndarray, " record"]:
    """Return the steps of the records: ``burst`` consecutive ones, then a gap."""
    records = np.arange(n_records)
    return records // burst * (EVERY * burst) + records % burst


def _template_rate(impact: Impact, span: float) -> Callable[[float], float]:
    """Return γ(t): a power law with tail index 0.4, strong enough to move features well beyond their noise."""
    late = CLASSES * (3e-3 if impact == "R" else 1.5 / span)
    return lambda step: late * ((step + 0.01 * span) / (1.01 * span)) ** -0.4
