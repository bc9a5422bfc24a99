"""Record features of a fixed set of samples from within any training loop."""

import os
import time as clock
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import torch
from numpy.typing import ArrayLike
from torch import nn

from data_tools.elasticity import ElasticityMeasurement
from data_tools.elasticity_records import ElasticitySnapshot
from data_tools.errors import InputError
from data_tools.guarded_writer import GuardedWriter, OnError
from data_tools.layers import find_layers
from data_tools.new_file import refuse_existing
from data_tools.probe import Probe
from data_tools.record_taking import RecordTaker, describe
from data_tools.recording_layout import StoredType
from data_tools.recording_plan import FirstRecord, RecordingPlan
from data_tools.recording_schema import check_class_frequencies, check_labels
from data_tools.reduced_records import Reducer
from data_tools.resuming import is_empty
from data_tools.schedules import Course, EverySteps, Schedule, check_fires
from data_tools.time_budget import TimeBudget
from data_tools.training_state import device_of, unwrap, uses_batch_statistics


class FeatureRecorder:
    """Record the features of a network while it trains, without changing the training.

    Use it as a context manager around the training loop and call `step` after every update of the optimizer::

        with FeatureRecorder("run.h5", model, probe=(inputs, labels), layers=["fc2", "fc3"]) as recorder:
            for x, y in loader:
                ...
                optimizer.step()
                recorder.step()

    At each record the network is evaluated on the probe in evaluation mode. Its weights, buffers and modes and the
    states of all global random generators stay bit by bit what they would be without a recorder.

    Records are written by a thread, so that training does not wait for the disk. Up to four records wait for it; then
    training waits too, and nothing is dropped. A record is safe on disk, whatever happens to the process, as soon as
    the thread has written it, after `flush`, or when the context is left.

    Parameters
    ----------
    path
        Recording to make.
    model
        The network; compiled and data-parallel ones are unwrapped. With several processes only that of rank 0 records.
    probe
        Inputs of n samples, and the class of each, 0 … K − 1; or a `Probe`, see there for networks that take several
        inputs. At least two samples of every class.
    layers
        Names as in ``model.named_modules()``; ``NAME:input`` records what goes into a module. Features are flattened,
        and of several tensors the first is taken. ``:first``, ``:mean`` or ``:last`` behind a name takes one vector of
        each sequence (samples, positions, features) instead, regarding an ``attention_mask``.
    every, burst
        Record the first `burst` (2) steps of every `every` (50), see `data_tools.schedules.EverySteps`.
    schedule
        When to record, instead of these: one of `data_tools.schedules`, or any function of the step (updates of the
        optimizer so far) that tells whether it is recorded. Step 0 always is.
    time_budget
        Most time that recording may take, as a share of the time that training takes, such as 0.02: bursts that would
        exceed it are postponed, see `data_tools.time_budget.TimeBudget`. The steps recorded then depend on the machine.
        The record of step 0 and measurements of elasticity are not counted.
    planned_steps
        Updates of the optimizer in the whole run. The size of the recording is then projected and logged, with a
        warning if the disk has no room for it.
    given_labels
        What the samples are trained as, if `probe` does not say so and it is not its labels.
    logits
        The layer that gives the logits. By default the last of `layers`, if it has as many features as there are
        classes.
    classifier
        If the logits come from a linear layer, its weight and bias are recorded too. ``"auto"`` finds out which of
        `layers` feeds it; a name says so, and is checked; None records neither.
    probe_batch_size
        Samples evaluated at once; by default as `probe` says, or 256.
    dtype
        Type in which features are stored; by default that in which the network computes, float32 for most. ``float16``
        takes half the room; it rounds features by up to 2⁻¹¹ of their size (and those below 6·10⁻⁵ more), and so
        probabilities by as much times the size of the logits. It ends at 65,504: layers above 1/16 of that at the first
        record are stored in float32, and a later record beyond the end is an error as of the disk, see `on_error`.
    scalars
        Functions without arguments, called at every record for a number to keep with it, such as a validation loss.
        They may evaluate the model: it is in evaluation mode, and nothing they do to it or to random generators stays.
    time
        ``"steps"``, or a function that returns the time now, such as the cumulative learning rate.
    measure_elasticity_every, elasticity
        Measure elasticity on the live network at step 0 and after every so many steps, and how; give both or neither.
        It costs as many steps and evaluations of the probe as it repeats; the training does not notice.
    class_frequencies
        Share of each class, by the probe's labels, among the samples that training draws. Not recorded by default, and
        taken to be equal then.
    provenance
        Text and numbers to keep with the recording.
    background
        Write in a thread. Without it, a record is safe on disk as soon as `step` returns, and training waits for that.
    on_error
        When a record cannot be written, for instance as the disk is full: ``"warn"`` once, close the file, whose
        records stay readable, and let training go on without; or ``"raise"`` an `InputError` from `step`.
    reduce
        Keep statistics of all samples and the features of some only, such as ``lesde_infer.Reduction()``: fits are the
        same, at a few kilobytes a record. The probe's features must be finite, and stored as they are computed. Of one
        that is resumed elsewhere than at a recorded step fits leave out one interval, see
        `data_tools.resumed_reduction`.
    resume
        Continue the recording of a training that was broken off and goes on from a checkpoint; if there is none, start
        one. It must be of the same network, probe, layers, labels and types. The records up to the checkpoint are
        copied to a new file, which needs room beside the old one and replaces it at the first `step`.
    resume_at
        With `resume`: updates of the optimizer that the checkpoint has seen, 0 if training starts anew. Records and
        measurements beyond are dropped. Call `flush` before saving a checkpoint, lest records before it are lost.
    force
        Replace an existing file.

    Attributes
    ----------
    n_steps : int
        Updates of the optimizer so far, those before `resume_at` included.

    Raises
    ------
    InputError
        If a layer is unknown or does not run exactly once per pass, the labels cannot be right, elasticity cannot be
        measured as told, the schedule never records anything, the file exists or cannot be resumed, or the disk has no
        room for even ten records.

    Notes
    -----
    When logits are recorded, so are the scalars ``loss``, the mean cross-entropy of the probe by given label, and
    ``accuracy``, the share of the probe classified as given.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: nn.Module,
        probe: Probe | tuple[Any, Any],
        layers: Sequence[str],
        every: int | None = None,
        burst: int | None = None,
        *,
        schedule: Schedule | None = None,
        time_budget: float | None = None,
        planned_steps: int | None = None,
        given_labels: Any = None,
        logits: str | None = None,
        classifier: Literal["auto"] | str | None = "auto",
        probe_batch_size: int | None = None,
        dtype: StoredType | None = None,
        scalars: Mapping[str, Callable[[], float]] | None = None,
        time: Literal["steps"] | Callable[[], float] = "steps",
        measure_elasticity_every: int | None = None,
        elasticity: ElasticityMeasurement | None = None,
        class_frequencies: ArrayLike | None = None,
        provenance: Mapping[str, object] | None = None,
        background: bool = True,
        on_error: OnError = "warn",
        reduce: Reducer | None = None,
        resume: bool = False,
        resume_at: int | None = None,
        force: bool = False,
    ) -> None:
        if schedule is not None and not (every is None and burst is None):
            raise InputError("schedule is given as well as every or burst; give one of them")
        short = EverySteps(50 if every is None else every, 2 if burst is None else burst)
        self._schedule: Schedule = short if schedule is None else schedule
        check_fires(self._schedule, planned_steps)
        for name, value, choices in (("dtype", dtype, StoredType), ("on_error", on_error, OnError)):
            if value is not None and value not in get_args(choices):
                raise InputError(f"{name}={value!r}: choose one of {', '.join(get_args(choices))}")
        if resume and force:
            raise InputError("resume=True continues a recording and force=True replaces it; give one of them")
        if reduce is not None and dtype is not None:
            raise InputError("reduce does not go with dtype; leave out the one or the other")
        if resume_at is not None and (not resume or resume_at < 0):
            raise InputError(f"resume_at={resume_at}: give the updates so far, from 0 on, together with resume=True")
        module = unwrap(model)
        find_layers(module, layers)
        self._model: nn.Module | None = module
        self._layers = list(layers)
        self._probe = Probe.of(probe, given_labels, probe_batch_size)
        n_classes = check_labels(self._probe.labels, self._probe.given_labels, "the probe's ")
        self._taker = RecordTaker(
            self._probe, layers, n_classes, logits=logits, classifier=classifier, scalars=scalars or {}, time=time
        )
        if (elasticity is None) != (measure_elasticity_every is None):
            raise InputError("give both measure_elasticity_every and elasticity, or neither")
        if measure_elasticity_every is not None and measure_elasticity_every < 1:
            raise InputError(f"measure_elasticity_every is {measure_elasticity_every}; it must be at least 1")
        if elasticity is not None:
            elasticity.check(module, self._probe, self._layers)
        if class_frequencies is not None:
            check_class_frequencies(class_frequencies, n_classes, "class_frequencies")
        self._elasticity, self._measure_every = elasticity, measure_elasticity_every
        self._measuring = False
        burst_length = getattr(self._schedule, "burst", 1)
        self._budget = None if time_budget is None else TimeBudget(time_budget, burst_length)
        times: dict[str, object] = {"every": short.every, "burst": short.burst}
        if schedule is not None:
            times = {"schedule": getattr(schedule, "__qualname__", repr(schedule))}
        if time_budget is not None:
            times["time_budget"] = time_budget
        self._active = not _is_secondary_process()
        self._path = Path(path)
        continues = False
        if self._active:
            refuse_existing(self._path, force or resume)
            continues = resume and self._path.exists() and not is_empty(self._path)
        if continues and resume_at is None:
            raise InputError(f"{self._path}: exists; give resume_at, the updates that the restored checkpoint has seen")
        measuring = {"measure_elasticity_every": measure_elasticity_every}
        self._plan = RecordingPlan(
            self._path,
            self._probe,
            self._taker,
            self._schedule,
            planned_steps,
            dtype,
            class_frequencies,
            measure_elasticity_every,
            {**describe(module, layers, self._probe), **measuring, **times, **(provenance or {})},
            background,
            on_error,
            force or (resume and not continues and self._path.exists()),  # a file without records
            continues,
            reduce,
        )
        self.n_steps = resume_at or 0
        self._first: FirstRecord | None = None
        self._writer: GuardedWriter | None = None
        self._course: Course | None = None
        self._step_scalars: frozenset[str] = frozenset()
        if uses_batch_statistics(module):
            warnings.warn(
                "a normalisation layer uses the statistics of the batch in evaluation mode too, so features depend on "
                "the order of the probe and on probe_batch_size",
                stacklevel=2,
            )

    def __enter__(self) -> Self:
        """Take the first record; the first call of `step` writes it, as it tells which scalars there are."""
        if self._active and self._model is not None:
            start = clock.perf_counter()
            record = self._taker.take_first(self._model, self.n_steps)
            seconds = clock.perf_counter() - start
            snapshot = settings = None
            if self._elasticity is not None:
                n_outputs = None if self._taker.logits is None else record.features[self._taker.logits].shape[1]
                settings = self._elasticity.settings(self._probe, n_outputs)
                if not self._plan.continues:
                    snapshot = self._measure(self._model, self._elasticity)
            first = FirstRecord(self.n_steps, record, snapshot, settings)
            self._plan.check(first)
            self._first = first
            if self._budget is not None:
                self._budget.spend(seconds, within=False)
                self._budget.start_training()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        first, writer = self._first, self._writer
        # A recorder that is done must not keep a model in memory.
        self._first = self._model = self._elasticity = self._writer = None
        if first is not None and kind is None and not self._plan.continues:
            writer, _ = self._plan.start(first, {})
        if writer is not None:
            writer.close(in_error=kind is not None)

    def step(self, **scalars: float) -> None:
        """Count one update of the optimizer, and record if it is due.

        Parameters
        ----------
        **scalars
            Numbers to keep with the record, such as the loss of the batch; the same names at every call. At step 0,
            before the first update, they are stored as not a number. ``lr``, the learning rate of the update just made,
            lets a fit count time in cumulative learning rate.

        Raises
        ------
        InputError
            If names differ from the first call, or the recorder was not entered with ``with``; or if a record cannot be
            written and ``on_error="raise"``.
        """
        if not self._active or self._measuring:  # a hook on the optimizer may call it in measured steps
            return
        if self._first is not None:
            self._writer, self._course = self._plan.start(self._first, scalars)
            self._first, self._step_scalars = None, frozenset(scalars)
        writer, course, model = self._writer, self._course, self._model
        if writer is None or course is None or model is None:
            raise InputError(
                f"{self._path}: step() outside the `with` block; write `with FeatureRecorder(…) as recorder:`"
            )
        self.n_steps += 1
        if self._step_scalars != scalars.keys():
            raise InputError(
                f"{self._path}: step {self.n_steps} gives the scalars {sorted(scalars)}, but the first step gave "
                f"{sorted(self._step_scalars)}; give the same at every step"
            )
        if writer.is_stopped:
            return
        with self._budget.paused() if self._budget is not None else nullcontext():
            due = course.is_due(self.n_steps)
            if due if self._budget is None else self._budget.admits(due):
                self._record(model, writer, course, scalars)
            if self._elasticity is not None and self._measure_every and self.n_steps % self._measure_every == 0:
                writer.append_elasticity(self._measure(model, self._elasticity))

    def flush(self) -> None:
        """Wait until all records so far are safe on disk; call it before saving a checkpoint to resume from.

        Raises
        ------
        InputError
            If one cannot be written and ``on_error="raise"``.
        """
        if self._writer is not None:
            self._writer.flush()

    def _record(self, model: nn.Module, writer: GuardedWriter, course: Course, scalars: Mapping[str, float]) -> None:
        if self._budget is not None and device_of(model).type == "cuda":
            with self._budget.resumed():  # what is still being computed belongs to training
                torch.cuda.synchronize(device_of(model))
        start = clock.perf_counter()
        self._plan.write(writer, course, self.n_steps, self._taker.take(model, self.n_steps), scalars)
        if self._budget is not None:
            self._budget.spend(clock.perf_counter() - start)

    def _measure(self, model: nn.Module, measurement: ElasticityMeasurement) -> ElasticitySnapshot:
        self._measuring = True
        try:
            return measurement.measure(
                model,
                self._probe,
                self._layers,
                logits=self._taker.logits,
                classifier_layer=self._taker.classifier_layer,
                step=self.n_steps,
            )
        finally:
            self._measuring = False


def _is_secondary_process() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0
