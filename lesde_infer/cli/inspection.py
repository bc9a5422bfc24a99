"""``lesde inspect``: what is in a recording, and whether it can be used."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from jaxtyping import Float

from data_tools.errors import InputError
from data_tools.recording import Recording
from lesde_infer.cli.console import printable, results_console
from lesde_infer.cli.options import ForceOption, JsonOption
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

SPARKLINE_WIDTH = 40
_BARS = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording.")],
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Say what a recording holds, and if it is sound."""
    check_outputs([json], inputs=[file], force=force)
    description = describe(file)
    show_description(description, results_console(json))
    write_json(description, json, force=force)


def describe(path: Path) -> dict[str, Any]:
    """Describe a recording, reading all its features once.

    Returns
    -------
    dict
        ``file``, ``n_records``, ``n_samples``, ``n_classes``, ``samples_per_class``, ``n_relabelled`` (samples trained
        under another label), ``class_frequencies`` (shares of the classes in training, None if not recorded),
        ``first_step``, ``last_step``, ``intervals`` (list of ``steps`` and ``count``, most frequent first), ``layers``
        (list of ``name``, ``n_features``, ``dtype``, ``is_logits``, ``problem``, None if a model can be fitted to it,
        and ``missing``, how many times a sample's features are missing: ``n_samples``, at ``n_records`` records from
        step ``first_step`` on, None if never), ``has_classifier``, ``scalars`` (``first`` and ``last`` by name),
        ``loss`` (the curve, thinned, None if there is none), ``provenance``.

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
            "n_records": recording.n_records,
            "n_samples": recording.n_samples,
            "n_classes": recording.n_classes,
            "samples_per_class": np.bincount(recording.labels, minlength=recording.n_classes).tolist(),
            "n_relabelled": int(np.count_nonzero(recording.labels != recording.given_labels)),
            "class_frequencies": None if recording.class_frequencies is None else recording.class_frequencies.tolist(),
            "first_step": int(recording.steps[0]),
            "last_step": int(recording.steps[-1]),
            "intervals": [{"steps": steps, "count": count} for steps, count in counts.most_common()],
            "layers": [
                {
                    "name": layer,
                    "n_features": recording.features(layer).shape[2],
                    "dtype": str(recording.features(layer).dtype),
                    "is_logits": layer == recording.logits,
                    **_health(recording, layer),
                }
                for layer in recording.layers
            ],
            "has_classifier": recording.classifier is not None,
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
    spacing = ", ".join(f"{entry['count']} × {entry['steps']}" for entry in description["intervals"][:4])
    more = ", …" if len(description["intervals"]) > 4 else ""
    rows = {
        "file": description["file"],
        "records": f"{description['n_records']}, from step {description['first_step']} to {description['last_step']}",
        "intervals": f"{spacing}{more} steps" if spacing else "none: a fit needs at least two records",
        "samples": f"{description['n_samples']} of {description['n_classes']} classes ({per_class})"
        + (f", {relabelled} trained under another label" if relabelled else ""),
    }
    if shares := description["class_frequencies"]:
        rows["in training"] = "classes have shares " + ", ".join(f"{share:.3g}" for share in shares)
    for layer in description["layers"]:
        role = ", the logits" if layer["is_logits"] else ""
        health = "finite" if layer["problem"] is None else f"NOT USABLE: {layer['problem']}"
        if missing := layer["missing"]:
            health += (
                f"; samples are missing {missing['n_samples']} times, at {missing['n_records']} records from step "
                f"{missing['first_step']} on, and are left out there"
            )
        rows[f"layer {layer['name']}"] = f"{layer['n_features']} features ({layer['dtype']}){role}; {health}"
    rows["classifier"] = "recorded" if description["has_classifier"] else "not recorded"
    for name, ends in description["scalars"].items():
        drawn = f"  {sparkline(description['loss'])}" if name == "loss" else ""
        rows[name] = f"{ends['first']:.4g} → {ends['last']:.4g}{drawn}"
    rows |= {f"· {name}": str(value) for name, value in description["provenance"].items()}
    width = min(28, max(map(len, rows)))
    for name, value in rows.items():
        console.print(f"{printable(name):<{width}}  {printable(value)}")


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
    found = {"n_samples": int(missing.sum()), "n_records": int(lacking.size)}
    return {"problem": None, "missing": {**found, "first_step": int(recording.steps[lacking[0]])}}
