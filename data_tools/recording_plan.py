"""What a recorder is going to write and when, and how the file is opened: a new one, or one that is resumed."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from data_tools.elasticity_records import ElasticityLayout, ElasticitySettings, ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.guarded_writer import GuardedWriter, OnError
from data_tools.probe import Probe
from data_tools.projected_size import check_projected_size
from data_tools.record_taking import Record, RecordTaker, class_states
from data_tools.recording import Recording
from data_tools.recording_layout import RecordingLayout, StoredType, layer_layouts, records_within
from data_tools.recording_schema import check_provenance
from data_tools.recording_writer import RecordingWriter
from data_tools.reduced_records import ReducedSource, Reducer
from data_tools.resumed_reduction import resume_reduction
from data_tools.resuming import check_same_run, first_missing, recorded_layout, replay, resumed_writer
from data_tools.schedules import AdaptiveSchedule, Course, FixedCourse, Schedule


@dataclass(frozen=True)
class FirstRecord:
    """What is known when a recorder starts.

    Attributes
    ----------
    step
        Updates of the optimizer so far.
    record
        The features and numbers.
    snapshot
        What was measured of elasticity, if anything.
    settings
        How elasticity is measured, if it is.
    """

    step: int
    record: Record
    snapshot: ElasticitySnapshot | None
    settings: ElasticitySettings | None


@dataclass(frozen=True)
class RecordingPlan:
    """What is recorded, when, and where to.

    Attributes are as the parameters of `data_tools.FeatureRecorder`, apart from these.

    Attributes
    ----------
    taker
        Takes the records.
    continues
        Whether there is a recording to resume.
    """

    path: Path
    probe: Probe
    taker: RecordTaker
    schedule: Schedule
    planned_steps: int | None
    dtype: StoredType | None
    class_frequencies: ArrayLike | None
    measure_elasticity_every: int | None
    provenance: Mapping[str, object]
    background: bool
    on_error: OnError
    force: bool
    continues: bool
    reducer: Reducer | None = None

    def check(self, first: FirstRecord) -> None:
        """Find faults before training starts; nothing is written.

        Raises
        ------
        InputError
            If there is no room for the recording or the schedule's bounds, or it cannot be resumed.
        """
        if not self.continues:
            layout = self._new_layout(first, tuple(first.record.scalars))
        else:
            with Recording(self.path) as before:
                layout = recorded_layout(before)
                now = self._new_layout(first, (), layout)
                check_same_run(before, first.step, now, self.provenance, first.settings)
        check_projected_size(self.path, layout, self.schedule, self.planned_steps, self._n_measurements())
        self._begin(layout)

    def start(self, first: FirstRecord, scalars: Mapping[str, float]) -> tuple[GuardedWriter, Course]:
        """Open the file, now that all names are known, and write the first record, or copy those that are resumed.

        Parameters
        ----------
        first
            The first record.
        scalars
            Numbers given to the first step.

        Returns
        -------
        GuardedWriter, Course
            What writes, and what tells when.

        Raises
        ------
        InputError
            If the file cannot be made, or a number is recorded already.
        """
        twice = first.record.scalars.keys() & scalars.keys()
        if twice:
            raise InputError(f"{self.path}: the scalar {min(twice)!r} is recorded already; give yours another name")
        names = (*first.record.scalars, *scalars)
        if self.continues:
            return self._resume(first, names)
        layout = self._new_layout(first, names)
        course = self._begin(layout)
        writer = RecordingWriter(self.path, layout, provenance=self.provenance, force=self.force)
        guarded = GuardedWriter(writer, background=self.background, on_error=self.on_error, reducer=self.reducer)
        self.write(guarded, course, first.step, first.record, dict.fromkeys(scalars, float("nan")))
        if first.snapshot is not None:
            guarded.append_elasticity(first.snapshot)
        return guarded, course

    def write(
        self, writer: GuardedWriter, course: Course, step: int, record: Record, scalars: Mapping[str, float]
    ) -> None:
        """Write a record, and show it to the schedule as it is stored.

        Raises
        ------
        InputError
            If it cannot be written and errors are to be raised.
        """
        stored = writer.append(step, record, scalars)
        if stored is not None and isinstance(self.schedule, AdaptiveSchedule):
            course.observe(step, class_states(stored, self.taker.logits, writer.layout.given_labels))

    def _resume(self, first: FirstRecord, names: tuple[str, ...]) -> tuple[GuardedWriter, Course]:
        step, lost = first.step, None
        with Recording(self.path) as before:
            course = self._begin(recorded_layout(before))
            if isinstance(self.schedule, AdaptiveSchedule):
                replay(before, step, course)
            missing = first_missing(before, step, course) if "time_budget" not in self.provenance else None
            if self.reducer is not None:
                lost = resume_reduction(before, self.reducer, step, first.record)
            writer = resumed_writer(before, step, names)
        if lost is not None:
            warnings.warn(f"{self.path}: {lost}", stacklevel=4)
        if missing is not None:
            warnings.warn(
                f"{self.path}: was resumed at step {step}, but what was due at step {missing} is missing; call "
                "recorder.flush() before saving a checkpoint",
                stacklevel=4,
            )
        guarded = GuardedWriter(writer, background=self.background, on_error=self.on_error, reducer=self.reducer)
        return guarded, course

    def _begin(self, layout: RecordingLayout) -> Course:
        if not isinstance(self.schedule, AdaptiveSchedule):
            return FixedCourse(self.schedule)
        room = self.schedule.max_bytes
        if room is not None:
            room = records_within(layout, room, self._n_measurements())
        return self.schedule.begin(room, self.planned_steps)

    def _n_measurements(self) -> int:
        """Return how often elasticity will be measured, as far as is known."""
        every = self.measure_elasticity_every
        return 0 if every is None else 1 + (self.planned_steps or 0) // every

    def _new_layout(
        self, first: FirstRecord, names: tuple[str, ...], before: RecordingLayout | None = None
    ) -> RecordingLayout:
        record, taker = first.record, self.taker
        elasticity = None
        if first.snapshot is not None and first.settings is not None:
            elasticity = ElasticityLayout.of(first.settings, first.snapshot)
        labels, given_labels, features, reduced = self.probe.labels, self.probe.given_labels, record.features, None
        if self.reducer is not None:
            frequencies = None if self.class_frequencies is None else np.asarray(self.class_frequencies, np.float64)
            source = ReducedSource(
                self.path,
                labels,
                given_labels,
                taker.logits,
                taker.classifier_layer,
                frequencies,
                check_provenance(self.provenance),
            )
            reduced = self.reducer.start(source, features, record.classifier)
            labels, given_labels = labels[reduced.samples], given_labels[reduced.samples]
            features = reduced.keep(features)
        return RecordingLayout(
            labels,
            given_labels,
            layer_layouts(features, self.dtype, None if before is None else before.layers),
            logits=taker.logits,
            classifier_width=None if record.classifier is None else int(np.shape(record.classifier[0])[1]),
            classifier_layer=None if record.classifier is None else taker.classifier_layer,
            scalars=names,
            elasticity=elasticity,
            class_frequencies=self.class_frequencies,
            reduced=reduced,
        )
