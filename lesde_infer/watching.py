"""What a training run looks like right now, from the recording that is being written."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.writer_state import WriterState
from lesde_infer.observed import observe
from lesde_infer.running_gamma import QuickRate, RunningGamma
from lesde_infer.snapshots import present_samples, read_record

SHOWN_LOSSES = 48  # points of the loss curve
METRICS = ("linear_separability", "ncm_accuracy", "nc1", "within_between_ratio")


@dataclass(frozen=True)
class Moment:
    """State of a recording.

    Attributes
    ----------
    writer : str
        ``writing``, ``finished``, ``died`` or ``unknown``.
    n_records, last_step : int
        Complete records, and the optimizer step of the last.
    layer : str
        Layer that is looked at.
    loss : list of float
        The probe's loss over the run, thinned; empty if it is not recorded.
    metrics : dict of float
        Separability and collapse of the layer at the last record; NaN where not defined.
    gamma_now : QuickRate or None
        Quick estimate of γ (`lesde_infer.running_gamma`); None where there is none yet.
    """

    writer: WriterState
    n_records: int
    last_step: int
    layer: str
    loss: list[float]
    metrics: dict[str, float]
    gamma_now: QuickRate | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        return {
            "writer": self.writer,
            "n_records": self.n_records,
            "last_step": self.last_step,
            "layer": self.layer,
            "loss": self.loss,
            **self.metrics,
            "gamma_now": None if self.gamma_now is None else asdict(self.gamma_now),
        }


def look(
    path: Path, layer: str | None = None, *, known: Moment | None = None, running: RunningGamma | None = None
) -> Moment:
    """Look at a recording, which may be being written.

    Parameters
    ----------
    path : Path
        Recording.
    layer : str, optional
        Layer; by default the logits.
    known : Moment, optional
        What was seen before: metrics are not measured again where no record has been added.
    running : RunningGamma, optional
        What was read before for γ, to which what was added is added.

    Raises
    ------
    InputError
        If the file is no recording that can be read, or has no such layer.
    """
    with Recording(path) as recording:
        name = recording.choose_layer(layer)
        if known is not None and known.n_records == recording.n_records:
            metrics = known.metrics
        else:
            metrics = _measure(recording, name)
        if running is not None:
            with suppress(InputError):  # no residuals, or not finite: there is no γ to tell
                running.update(recording)
        loss = np.asarray(recording.scalars["loss"], dtype=np.float64) if "loss" in recording.scalars else np.zeros(0)
        shown = np.unique(np.linspace(0, len(loss) - 1, min(len(loss), SHOWN_LOSSES)).round().astype(int))
        return Moment(
            writer=recording.writer,
            n_records=recording.n_records,
            last_step=int(recording.steps[-1]),
            layer=name,
            loss=loss[shown].tolist() if len(loss) else [],
            metrics=metrics,
            gamma_now=None if running is None else running.estimate(),
        )


def _measure(recording: Recording, layer: str) -> dict[str, float]:
    """Measure the last record, without samples that are missing; NaN where that is not defined."""
    try:
        features = read_record(recording, layer, recording.n_records - 1)
        present = present_samples(features)
        return observe(features[present], recording.labels[present], metrics=METRICS)
    except InputError:  # not finite, or a class is missing: training goes on, and so does watching
        return dict.fromkeys(METRICS, float("nan"))
