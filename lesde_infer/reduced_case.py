"""What is kept of one layer under one impact and grouping, record after record."""

import numpy as np
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording_schema import AttributeValue
from data_tools.reduced_records import FILTERED, SHAPES, Rows
from lesde_infer.filtered_case import FilteredCase
from lesde_infer.frequencies import class_frequencies, class_weights
from lesde_infer.impacts import Impact
from lesde_infer.interval_products import IntervalProducts
from lesde_infer.probe_sampling import moved_along
from lesde_infer.record_source import RecordSource
from lesde_infer.reduced_intervals import Shape, pack
from lesde_infer.snapshots import Grouping, Snapshot, SnapshotReader


class CaseReduction:
    """Reduces the records that a `lesde_infer.live_record.LiveRecord` is shown (`data_tools.reduced_records`).

    With a momentum it is that of impacts filtered by its memory too.

    Raises
    ------
    InputError
        If the impact cannot be fitted to the layer.
    """

    def __init__(
        self, live: RecordSource, layer: str, impact: Impact, group: Grouping, momentum: float | None = None
    ) -> None:
        self._live = live
        self._reader = SnapshotReader(live, layer, impact, group, class_weights(class_frequencies(live, group)))
        self._everyone = np.ones(len(self._reader.groups), dtype=bool)
        self._before: Snapshot | None = None
        self._earlier: Float[np.ndarray, "class_ feature"] | None = None
        first = self._read()
        self._class_means = first.class_means.shape
        self._shape = Shape.of(IntervalProducts.between(first, first, self._reader.average, self._everyone)[0])
        self._filtered = None if momentum is None else FilteredCase(momentum, first, self._reader.groups, self._shape)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[np.floating]]]:
        """Return the shape and type of one record of each array."""
        double = np.dtype(np.float64)
        filtered = {} if self._filtered is None else self._filtered.shapes()
        return {
            "class_means": (self._class_means, double),
            "impact": (self._class_means, double),
            "mean_impact": (self._class_means[1:], double),
            "mean_square": ((), double),
            "moved_along": (self._everyone.shape, np.dtype(np.float32)),
            "products": ((sum(self._shape.lengths),), double),
            **{f"{FILTERED}/{name}": value for name, value in filtered.items()},
        }

    def attributes(self) -> dict[str, dict[str, AttributeValue]]:
        """Return the attributes of the case, by an empty name, and of what is filtered."""
        found: dict[str, dict[str, AttributeValue]] = {"": {name: getattr(self._shape, name) for name in SHAPES}}
        if self._filtered is not None:
            found[f"/{FILTERED}"] = {"momentum": self._filtered.momentum}
        return found

    def go_on(self, known: bool, rows: dict[str, Rows]) -> None:
        """Go on behind a record, given the last rows up to it; if it is known it is what is shown now."""
        self._before = self._read() if known else None
        self._earlier = rows["impact"][-2] if known and len(rows["impact"]) > 1 else None
        if self._filtered is not None:
            own = {name.removeprefix(f"{FILTERED}/"): row for name, row in rows.items() if name.startswith(FILTERED)}
            self._filtered.go_on(self._step, own)

    def add(self) -> dict[str, Float[np.ndarray, "*shape"]]:
        """Return the arrays of the present record."""
        before, after = self._before, self._read()
        row, moved, products = np.zeros(sum(self._shape.lengths)), np.zeros(len(self._everyone)), None
        if before is not None:
            products, _ = IntervalProducts.between(before, after, self._reader.average, self._everyone)
            two_apart = float(np.vdot(self._earlier, after.contrast)) if self._earlier is not None else 0.0
            row = pack(products, two_apart)
            moved = moved_along(before.features, after.features, before.contrast, self._reader.groups)
        filtered = {} if self._filtered is None else self._filtered.add(self._step, before, after, products)
        self._earlier, self._before = None if before is None else before.contrast, after
        return {
            "class_means": after.class_means,
            "impact": after.contrast,
            "mean_impact": after.directions.mean_impact,
            "mean_square": np.array(after.mean_square),
            "moved_along": moved,
            "products": row,
            **{f"{FILTERED}/{name}": value for name, value in filtered.items()},
        }

    @property
    def _step(self) -> int:
        return int(self._live.steps[0])

    def _read(self) -> Snapshot:
        held, found = self._reader.read(0)
        if found is None or not held.all():
            raise InputError(
                f"{self._live.path}: samples are missing at step {self._live.steps[0]}; a reduced recording holds "
                "whole probes only"
            )
        return found
