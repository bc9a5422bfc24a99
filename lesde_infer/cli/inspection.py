"""``lesde inspect``: what is in a recording, and whether it can be used."""

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.reduced_contents import reduced_contents
from data_tools.timeline import timeline
from lesde_infer.cli.console import printable, results_console
from lesde_infer.cli.options import ForceOption, JsonOption
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

SPARKLINE_WIDTH = 40
SHOWN = 4
GROUPS: tuple[Literal["labels", "given_labels"], ...] = ("labels", "given_labels")
WRITER_STATES = {
    "finished": "finished",
    "writing": "its writer is still at work; this is what is there by now",
    "died": "its writer died; what it completed is there (lesde recover makes a finished copy)",
    "unknown": "not finished; what its writer has completed is there",
}
_BARS = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording.")],
    quick: Annotated[bool, typer.Option("--quick", help="Do not read the features to see if they are sound.")] = False,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Say what a recording holds, and if it is sound."""
    check_outputs([json], inputs=[file], force=force)
    description = describe(file, quick=quick)
    show_description(description, results_console(json))
    write_json(description, json, force=force)


def describe(path: Path, *, quick: bool = False) -> dict[str, Any]:
    """Describe a recording, reading all its features once unless told to be quick.

    Returns
    -------
    dict
        ``file``, ``size_bytes``, ``writer`` (``finished``, ``writing``, ``died`` or ``unknown``), ``n_records``,
        ``n_samples``, ``reduced_from_samples`` and ``reduced`` (None if it is not reduced), ``n_classes``,
        ``samples_per_class``,
        ``n_relabelled`` (samples trained under another label),
        ``class_frequencies`` (shares of the classes in training, None if not recorded), ``first_step``, ``last_step``,
        ``intervals`` (list of ``steps`` and ``count``, most frequent first), ``timeline`` (see `data_tools.timeline`),
        ``layers`` (list of ``name``, ``n_features``, ``dtype``, ``size_bytes``, ``is_logits``, ``is_checked``, False if
        features were not read, ``problem``, None if a model can be fitted to it, and ``missing``, how many times a
        sample's features are missing: ``n_samples``, at ``n_records`` records from step ``first_step`` on, at
        ``n_empty_records`` all of them; None if never), ``has_classifier``, ``elasticity`` (list of ``layer``,
        ``groups``, ``n_measurements``, ``first_step`` and ``last_step``), ``scalars`` (``first`` and ``last`` by name),
        ``loss`` (the curve, thinned, None if there is none), ``provenance``.

        ``reduced`` holds ``cases`` (list of ``layer``, ``impact``, ``group`` and ``momentum``, None where impacts
        filtered by its memory are not held), ``restarted_intervals`` (list of ``first_step`` and ``last_step``, within
        which training was resumed, and which fits leave out) and ``problem`` (None if it is sound).

    Raises
    ------
    InputError
        If the file is not a recording that can be read.
    """
    with Recording(path) as recording:
        counts = Counter(np.diff(recording.steps).tolist())
        loss = recording.scalars.get("loss")
        return {
            "file": str(path),
            "size_bytes": path.stat().st_size,
            "writer": recording.writer,
            "n_records": recording.n_records,
            "n_samples": recording.n_samples,
            "reduced_from_samples": len(recording.probe_labels("labels")) if recording.is_reduced else None,
            "reduced": _reduced(recording),
            "n_classes": recording.n_classes,
            "samples_per_class": np.bincount(recording.labels, minlength=recording.n_classes).tolist(),
            "n_relabelled": int(np.count_nonzero(recording.labels != recording.given_labels)),
            "class_frequencies": None if recording.class_frequencies is None else recording.class_frequencies.tolist(),
            "first_step": int(recording.steps[0]),
            "last_step": int(recording.steps[-1]),
            "intervals": [{"steps": steps, "count": count} for steps, count in counts.most_common()],
            "timeline": asdict(timeline(recording.steps)),
            "layers": [
                {
                    "name": layer,
                    "n_features": recording.features(layer).shape[2],
                    "dtype": str(recording.features(layer).dtype),
                    "size_bytes": math.prod(recording.features(layer).shape) * recording.features(layer).dtype.itemsize,
                    "is_logits": layer == recording.logits,
                    "is_checked": not quick,
                    **({"problem": None, "missing": None} if quick else _health(recording, layer)),
                }
                for layer in recording.layers
            ],
            "has_classifier": recording.classifier is not None,
            "elasticity": [found for layer in recording.layers if (found := _elasticity(recording, layer)) is not None],
            "scalars": {
                name: {"first": float(values[0]), "last": float(values[-1])}
                for name, values in recording.scalars.items()
            },
            "loss": None if loss is None else _thinned(loss).tolist(),
            "provenance": recording.provenance,
        }


def show_description(description: dict[str, Any], console: "Console") -> None:
    """Print a description for people."""
    sizes = description["samples_per_class"]
    per_class = f"{sizes[0]} each" if len(set(sizes)) == 1 else ", ".join(map(str, sizes))
    relabelled = description["n_relabelled"]
    spacing = ", ".join(f"{entry['count']} × {entry['steps']}" for entry in description["intervals"][:SHOWN])
    more = ", …" if len(description["intervals"]) > SHOWN else ""
    rows = {
        "file": f"{description['file']} ({_bytes(description['size_bytes'])})",
        "state": WRITER_STATES[description["writer"]],
        "records": f"{description['n_records']}, from step {description['first_step']} to {description['last_step']}",
        "intervals": f"{spacing}{more} steps" if spacing else "none: a fit needs at least two records",
        "samples": f"{description['n_samples']} of {description['n_classes']} classes ({per_class})"
        + (f", {relabelled} trained under another label" if relabelled else ""),
    }
    if (whole := description["reduced_from_samples"]) is not None:
        rows["reduced"] = f"fits are of all {whole} samples, checks and metrics of these"
        rows |= _reduced_rows(description["reduced"])
    rows |= _timeline_rows(description["timeline"])
    if shares := description["class_frequencies"]:
        rows["in training"] = "classes have shares " + ", ".join(f"{share:.3g}" for share in shares)
    for layer in description["layers"]:
        role = ", the logits" if layer["is_logits"] else ""
        health = "finite" if layer["problem"] is None else f"NOT USABLE: {layer['problem']}"
        if not layer["is_checked"]:
            health = "not read"
        if missing := layer["missing"]:
            health += (
                f"; samples are missing {missing['n_samples']} times, at {missing['n_records']} records from step "
                f"{missing['first_step']} on, and are left out there"
            )
            if empty := missing["n_empty_records"]:
                health += f"; {empty} records hold no sample at all"
        rows[f"layer {layer['name']}"] = (
            f"{layer['n_features']} features ({layer['dtype']}, {_bytes(layer['size_bytes'])}){role}; {health}"
        )
    rows["classifier"] = "recorded" if description["has_classifier"] else "not recorded"
    for measured in description["elasticity"]:
        rows[f"elasticity {measured['layer']}"] = (
            f"measured {measured['n_measurements']} times, from step {measured['first_step']} to "
            f"{measured['last_step']}, by {' and '.join(measured['groups'])}"
        )
    for name, ends in description["scalars"].items():
        rows[name] = f"{ends['first']:.4g} → {ends['last']:.4g}"
    rows |= {f"· {name}": str(value) for name, value in description["provenance"].items()}
    width = min(28, max(map(len, rows)))
    draws = console.is_terminal and description["loss"] is not None
    drawn = {"loss": f"  {sparkline(description['loss'])}"} if draws else {}
    for name, value in rows.items():
        console.print(f"{printable(name):<{width}}  {printable(value)}{drawn.get(name, '')}")


def _timeline_rows(found: dict[str, Any]) -> dict[str, str]:
    """Say how records are spaced, where that can be said."""
    rows = {}
    if found["burst_length"] > 1:
        rows["bursts"] = f"{found['n_bursts']}, mostly of {found['burst_length']} consecutive steps"
        if found["burst_distance"] is not None:
            rows["bursts"] += f", mostly {found['burst_distance']} steps from one to the next"
    if gaps := found["gaps"]:
        named = ", ".join(f"from step {gap['first_step']} to {gap['last_step']}" for gap in gaps[:SHOWN])
        rows["gaps"] = f"{len(gaps)}, much longer than the intervals around: {named}" + (
            ", …" if len(gaps) > SHOWN else ""
        )
    return rows


def _reduced(recording: Recording) -> dict[str, Any] | None:
    """Say what a reduced recording holds of all its samples; None if it is whole."""
    if not recording.is_reduced:
        return None
    try:
        cases, restarted = reduced_contents(recording)
    except InputError as error:
        return {"cases": [], "restarted_intervals": [], "problem": str(error).removeprefix(f"{recording.path}: ")}
    return {
        "cases": [asdict(case) for case in cases],
        "restarted_intervals": [asdict(interval) for interval in restarted],
        "problem": None,
    }


def _reduced_rows(found: dict[str, Any]) -> dict[str, str]:
    """Say which fits a reduced recording allows, and what they leave out."""
    if found["problem"] is not None:
        return {"holds": f"NOT USABLE: {found['problem']}"}
    by_layer: dict[str, list[str]] = {}
    for case in found["cases"]:
        memory = "" if case["momentum"] is None else f" (and filtered by momentum {case['momentum']:.3g})"
        by_layer.setdefault(case["layer"], []).append(f"{case['impact']} by {case['group']}{memory}")
    rows = {f"holds {layer}": ", ".join(cases) for layer, cases in by_layer.items()}
    if gaps := found["restarted_intervals"]:
        named = ", ".join(f"from step {gap['first_step']} to {gap['last_step']}" for gap in gaps[:SHOWN])
        more = ", …" if len(gaps) > SHOWN else ""
        rows["resumed"] = f"between records {len(gaps)} times, which fits leave out: {named}{more}"
    return rows


def _elasticity(recording: Recording, layer: str) -> dict[str, Any] | None:
    """Say how often the elasticity of a layer was measured; None if never."""
    found = {group: recording.elasticity(layer, group) for group in GROUPS}
    if np.array_equal(recording.labels, recording.given_labels):
        del found["given_labels"]
    measured = {group: elasticity for group, elasticity in found.items() if elasticity is not None}
    if not measured:
        return None
    steps = next(iter(measured.values())).steps
    return {
        "layer": layer,
        "groups": list(measured),
        "n_measurements": len(steps),
        "first_step": int(steps[0]),
        "last_step": int(steps[-1]),
    }


def _bytes(count: int) -> str:
    """Write a size with three digits."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def sparkline(values: list[float]) -> str:
    """Draw numbers as a line of bars between their least and greatest; a number that is not finite leaves a gap."""
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if not finite.size:
        return ""
    span = float(np.ptp(finite)) or 1.0
    heights = np.where(np.isfinite(array), (array - finite.min()) / span * (len(_BARS) - 1), 0)
    return "".join(
        _BARS[round(height)] if good else " " for height, good in zip(heights, np.isfinite(array), strict=True)
    )


def _thinned(values: Float[np.ndarray, " time"]) -> Float[np.ndarray, " kept"]:
    kept = np.linspace(0, len(values) - 1, min(len(values), SPARKLINE_WIDTH)).round().astype(int)
    return values[kept]


def _health(recording: Recording, layer: str) -> dict[str, Any]:
    """Return why no model can be fitted to a layer, as ``problem``, and what is ``missing``; None if nothing."""
    try:
        missing = recording.check_finite(layer)
    except InputError as error:
        return {"problem": str(error).removeprefix(f"{recording.path}: "), "missing": None}
    lacking = np.flatnonzero(missing)
    if not lacking.size:
        return {"problem": None, "missing": None}
    empty = int(np.count_nonzero(missing == recording.n_samples))
    found = {"n_samples": int(missing.sum()), "n_records": int(lacking.size), "n_empty_records": empty}
    return {"problem": None, "missing": {**found, "first_step": int(recording.steps[lacking[0]])}}
