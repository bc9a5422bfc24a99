"""What statistics read of a recording: of one on disk, or of a run that goes on (`lesde_infer.live_record`)."""

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int


class RecordSource(Protocol):
    """Attributes and methods are those of `data_tools.Recording`."""

    @property
    def path(self) -> Path: ...  # noqa: D102  (see there)
    @property
    def steps(self) -> Int[np.ndarray, " time"]: ...  # noqa: D102
    @property
    def labels(self) -> Int[np.ndarray, " sample"]: ...  # noqa: D102
    @property
    def given_labels(self) -> Int[np.ndarray, " sample"]: ...  # noqa: D102
    @property
    def n_classes(self) -> int: ...  # noqa: D102
    @property
    def logits(self) -> str | None: ...  # noqa: D102
    @property
    def classifier(self) -> Any: ...  # noqa: D102
    @property
    def class_frequencies(self) -> Float[np.ndarray, " class_"] | None: ...  # noqa: D102
    def features(self, layer: str) -> Any: ...  # noqa: D102
    def probe_labels(self, group: Literal["labels", "given_labels"]) -> Int[np.ndarray, " sample"]: ...  # noqa: D102
    def check_finite(self, layer: str, until: int | None = None) -> Any: ...  # noqa: D102
