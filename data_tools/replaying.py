"""Record a training run afterwards, from the checkpoints that it left."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from data_tools.checkpoints import (
    StepOf,
    find_checkpoints,
    find_state,
    load_checkpoint,
    load_state,
    step_from_name,
    step_inside,
)
from data_tools.errors import InputError
from data_tools.layers import find_layers
from data_tools.new_file import refuse_existing, written_whole
from data_tools.probe import Probe
from data_tools.record_taking import Record, RecordTaker, describe
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_schema import check_class_frequencies, check_labels
from data_tools.recording_writer import RecordingWriter
from data_tools.training_state import unwrap, uses_batch_statistics


def replay(
    checkpoints: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    build_model: Callable[[], nn.Module],
    out: str | os.PathLike[str],
    probe: Probe | tuple[Any, Any],
    layers: Sequence[str],
    *,
    given_labels: Any = None,
    logits: str | None = None,
    classifier: Literal["auto"] | str | None = "auto",
    probe_batch_size: int | None = None,
    scalars: Mapping[str, Callable[[nn.Module], float]] | None = None,
    step_of: StepOf | None = None,
    step_key: str | None = None,
    state_key: str | None = None,
    prefix: str = "",
    class_frequencies: ArrayLike | None = None,
    provenance: Mapping[str, object] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make a recording from checkpoints, as if the run had been recorded at their steps.

    Each record is bit for bit what `data_tools.FeatureRecorder` would have taken then, of the same network on the same
    machine. Bursts of consecutive steps, which show how fast features really move, are what checkpoints rarely have.

    Parameters
    ----------
    checkpoints
        A folder, or the files: what `torch.save` wrote (.pt, .pth, .ckpt, .bin), loaded with ``weights_only=True``, or
        .safetensors, for which the package safetensors has to be installed. They are put into the order of their steps.
    build_model
        Called once for a network like that which was trained; what its weights are does not matter.
    out
        Recording to make; it appears complete or not at all.
    probe, layers, given_labels, logits, classifier, probe_batch_size, class_frequencies
        As for `data_tools.FeatureRecorder`.
    scalars
        Functions of the network, called at every record for a number to keep with it, such as a validation loss.
    step_of
        How to tell the step of a checkpoint from its path: a function, or a regular expression whose first group is the
        step. By default the number after ``step=``, or on which the name of the file or its folder ends. A name that
        ends on an epoch does not tell the step.
    step_key
        Where in the checkpoint the step is, if not in the name; by default tried are ``global_step``, ``step``,
        ``n_steps`` and ``iteration``.
    state_key
        Where in the checkpoint the weights are; by default they are the checkpoint itself, or ``state_dict``,
        ``model_state_dict`` or ``model`` in it.
    prefix
        Take only weights whose names start with this, and take it off, such as ``"model."`` for a network that was part
        of another module. What `torch.compile` and data-parallel training put before names is always taken off.
    provenance
        Text and numbers to keep with the recording.
    force
        Replace an existing file.
    progress
        Called after each record with the records done and the records in all.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        If there are no checkpoints, one cannot be read, does not tell its step, or does not fit the network, with what
        is missing or left over; if two are of the same step; if the probe or layers cannot be right; or if the file
        exists.
    """
    target = Path(out)
    refuse_existing(target, force)
    files = _in_order(find_checkpoints(checkpoints), step_of, step_key)
    model = build_model()
    if not isinstance(model, nn.Module):
        raise InputError(f"build_model returns a {type(model).__name__}, expected a torch.nn.Module")
    model = unwrap(model)
    find_layers(model, layers)
    samples = Probe.of(probe, given_labels, probe_batch_size)
    n_classes = check_labels(samples.labels, samples.given_labels, "the probe's ")
    if class_frequencies is not None:
        check_class_frequencies(class_frequencies, n_classes, "class_frequencies")
    if uses_batch_statistics(model):
        warnings.warn(
            "a normalisation layer uses the statistics of the batch in evaluation mode too, so features depend on the "
            "order of the probe and on probe_batch_size",
            stacklevel=2,
        )
    taker = RecordTaker(
        samples,
        layers,
        n_classes,
        logits=logits,
        classifier=classifier,
        scalars={name: _of(model, function) for name, function in (scalars or {}).items()},
        time="steps",
    )
    described = {**describe(model, layers, samples), "replayed_from": f"{len(files)} checkpoints"}
    with written_whole(target, force) as temporary:
        records = _records(files, model, taker, state_key, prefix)
        first = next(records)
        layout = _layout(first, samples, taker, class_frequencies)
        with RecordingWriter(temporary, layout, provenance={**described, **(provenance or {})}) as writer:
            for done, (step, record) in enumerate(_with_first(files, first, records), start=1):
                writer.append(
                    step,
                    record.features,
                    time=record.time,
                    classifier=record.classifier,
                    scalars=record.scalars,
                    commit=False,
                )
                if progress is not None:
                    progress(done, len(files))
    return target


def _in_order(files: list[Path], step_of: StepOf | None, step_key: str | None) -> dict[int, Path]:
    """Return the checkpoints by step, in rising order."""
    by_step: dict[int, Path] = {}
    for path in files:
        step = step_from_name(path, step_of) if step_key is None or step_of is not None else None
        if step is None:
            step = step_inside(load_checkpoint(path), path, step_key)
        if step in by_step:
            raise InputError(f"{by_step[step]} and {path} are both of step {step}; leave one out, or give step_of")
        by_step[step] = path
    return dict(sorted(by_step.items()))


def _records(
    files: Mapping[int, Path], model: nn.Module, taker: RecordTaker, state_key: str | None, prefix: str
) -> Iterator[Record]:
    """Yield the record of each checkpoint."""
    take = taker.take_first
    for step, path in files.items():
        load_state(model, find_state(load_checkpoint(path), path, state_key), path, prefix)
        yield take(model, step)
        take = taker.take


def _with_first(files: Mapping[int, Path], first: Record, rest: Iterator[Record]) -> Iterator[tuple[int, Record]]:
    steps = iter(files)
    yield next(steps), first
    yield from zip(steps, rest, strict=True)


def _layout(first: Record, samples: Probe, taker: RecordTaker, class_frequencies: ArrayLike | None) -> RecordingLayout:
    return RecordingLayout(
        samples.labels,
        samples.given_labels,
        {name: LayerLayout(array.shape[1], array.dtype) for name, array in first.features.items()},
        logits=taker.logits,
        classifier_width=None if first.classifier is None else int(np.shape(first.classifier[0])[1]),
        classifier_layer=None if first.classifier is None else taker.classifier_layer,
        scalars=tuple(first.scalars),
        class_frequencies=class_frequencies,
    )


def _of(model: nn.Module, function: Callable[[nn.Module], float]) -> Callable[[], float]:
    return lambda: function(model)
