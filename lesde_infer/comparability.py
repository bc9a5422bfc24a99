"""May these runs be compared? What differs between them, and whether that would be mistaken for the architecture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_tools.errors import InputError
from data_tools.recording import Recording

if TYPE_CHECKING:
    from lesde_infer.fit_result import Fit

NOISE_DIFFERENCE = 0.02  # of shares of wrong labels, that chance may cause


@dataclass(frozen=True)
class RunFacts:
    """What is known of how a run was made and fitted.

    Attributes
    ----------
    name, architecture : str
        File, and what it is a run of.
    asked : dict of str to str
        How it was fitted: these must be the same for all.
    n_classes, n_records, last_step : int
        Size of the record.
    probe : str or None
        Digest of the probe set, where it was recorded.
    label_noise : float or None
        Share of the probe's labels given that are wrong, where the recording is at hand.
    learning_rate : float or None
        Median over the record, where it was recorded.
    """

    name: str
    architecture: str
    asked: dict[str, str]
    n_classes: int
    n_records: int
    last_step: int
    probe: str | None
    label_noise: float | None
    learning_rate: float | None

    @classmethod
    def of(cls, architecture: str, path: Path, fit: "Fit", recording: Recording | None) -> "RunFacts":
        """Gather the facts of a run."""
        settings = fit.settings
        asked = {name: str(getattr(settings, name)) for name in ("impact", "elasticity", "curve", "group", "drive")}
        return cls(
            name=str(path),
            architecture=architecture,
            asked={**asked, "time unit": fit.time_unit},
            n_classes=fit.n_classes,
            n_records=len(fit.steps),
            last_step=int(fit.steps[-1]),
            probe=fit.provenance.get("recording.probe_sha256"),
            label_noise=None if recording is None else float(np.mean(recording.labels != recording.given_labels)),
            learning_rate=None if recording is None else _learning_rate(recording),
        )

    @classmethod
    def recorded(cls, architecture: str, path: Path, recording: Recording, time_unit: str) -> "RunFacts":
        """Gather the facts of a run that is not fitted; classes are by label, and impacts residuals."""
        probe = recording.provenance.get("probe_sha256")
        return cls(
            name=str(path),
            architecture=architecture,
            asked={"time unit": time_unit},
            n_classes=recording.n_classes,
            n_records=recording.n_records,
            last_step=int(recording.steps[-1]),
            probe=None if probe is None else str(probe),
            label_noise=float(np.mean(recording.labels != recording.given_labels)),
            learning_rate=_learning_rate(recording),
        )


def _learning_rate(recording: Recording) -> float | None:
    if "lr" not in recording.scalars:
        return None
    rates = np.asarray(recording.scalars["lr"], dtype=np.float64)
    return float(np.nanmedian(rates)) if np.isfinite(rates).any() else None


def check_comparable(runs: list[RunFacts], *, allow_different_data: bool) -> list[str]:
    """Refuse runs whose differences would be taken for those of architectures; return remarks on others.

    Parameters
    ----------
    runs : list of RunFacts
        All runs.
    allow_different_data : bool
        Compare in spite of different probe sets or shares of wrong labels.

    Raises
    ------
    InputError
        Where runs were fitted in different ways or have different classes, or architectures were trained or probed
        on different data.
    """
    first = runs[0]
    for run in runs[1:]:
        for name, value in run.asked.items():
            if value != first.asked[name]:
                mend = "fit both with --time steps" if name == "time unit" else "fit both alike"
                raise InputError(f"{run.name}: {name} is {value}, but {first.asked[name]} in {first.name}; {mend}")
        if run.n_classes != first.n_classes:
            raise InputError(
                f"{run.name}: has {run.n_classes} classes, but {first.name} has {first.n_classes}; elasticity compares "
                "only where classes are the same"
            )
    return [*_data_remarks(runs, allow_different_data=allow_different_data), *_schedule_remarks(runs)]


def _data_remarks(runs: list[RunFacts], *, allow_different_data: bool) -> list[str]:
    remarks = []
    noises = [run.label_noise for run in runs if run.label_noise is not None]
    if noises and max(noises) - min(noises) > NOISE_DIFFERENCE:
        low, high = (next(run for run in runs if run.label_noise == limit) for limit in (min(noises), max(noises)))
        message = (
            f"{high.name}: {high.label_noise:.0%} of its labels are wrong, but {low.label_noise:.0%} in {low.name}"
        )
        if not allow_different_data:
            raise InputError(
                f"{message}; label noise changes elasticity more than architectures do: compare runs with the same, "
                "or say --allow-different-data"
            )
        remarks.append(message)
    probes = {
        name: {run.probe for run in runs if run.architecture == name} for name in {run.architecture for run in runs}
    }
    known = set().union(*probes.values())
    if None in known:
        remarks.append("which probe set was recorded is not known of all runs; they may differ")
    elif len(known) > 1:
        own = list(probes.values())
        if all(len(probe) == 1 for probe in own):
            message = "probe sets differ between architectures, but not from run to run"
            if not allow_different_data:
                raise InputError(
                    f"{' and '.join(sorted(probes))}: {message}, so that a difference may be that of the samples; "
                    "record the same probe, or say --allow-different-data"
                )
            remarks.append(message)
        else:
            remarks.append("probe sets differ from run to run: their chance is part of that from run to run")
    return remarks


def _schedule_remarks(runs: list[RunFacts]) -> list[str]:
    remarks = []
    steps = [run.last_step for run in runs]
    if max(steps) > 1.02 * min(steps):
        remarks.append(
            f"records end between steps {min(steps)} and {max(steps)}: compare at a matched loss (gamma_at_loss), "
            "not at the end"
        )
    rates = [run.learning_rate for run in runs if run.learning_rate is not None]
    if rates and max(rates) > 1.02 * min(rates) and runs[0].asked["time unit"] == "steps":
        remarks.append(
            f"learning rates range from {min(rates):g} to {max(rates):g}, and rates per step with them; fit with "
            "--time learning_rate to compare rates per unit of learning rate"
        )
    return remarks
