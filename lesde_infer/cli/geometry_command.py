"""``lesde geometry``: separability and collapse of recorded features, without a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from lesde_infer.cli.console import plain_table, results_console, short_number
from lesde_infer.cli.options import ForceOption, GroupOption, JsonOption, LayerOption, SeedOption
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

Weights: TypeAlias = Literal["class", "sample"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("geometry")(geometry)


def geometry(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording.")],
    layer: LayerOption = None,
    group: GroupOption = "labels",
    at: Annotated[int | None, typer.Option(min=0, help="The last record up to this step; by default of all.")] = None,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER,LAYER,…",
            help="Layers in the order in which the network applies them; as recorded if left out.",
        ),
    ] = None,
    weights: Annotated[
        Weights, typer.Option(help="Count classes alike, or by their numbers of samples, in variants and spectrum.")
    ] = "class",
    permutations: Annotated[
        int, typer.Option(min=1, help="Random labels that tell what is separable by chance.")
    ] = 100,
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Measure separability and neural collapse of recorded features.

    Which classes hyperplanes separate, how widely, and how likely that is by chance; NC1 to NC4 in the forms in use;
    how much each recorded layer adds (law of data separation). Nothing is inferred.
    """
    check_outputs([json], inputs=[file], force=force)
    from lesde_infer.feature_geometry import geometry as measure

    names = None if order is None else [name.strip() for name in order.split(",")]
    found = measure(
        file,
        layer=layer,
        group=group,
        at=at,
        order=names,
        weights=weights,
        n_permutations=permutations,
        seed=seed,
    ).to_json()
    show_geometry(found, results_console(json))
    write_json(found, json, force=force)


def show_geometry(found: dict[str, Any], console: "Console") -> None:
    """Print what `lesde_infer.feature_geometry.Geometry.to_json` returns."""
    table = plain_table(
        f"Layer {found['layer']} at step {found['step']}, by {found['group']}: {found['n_samples']} samples of "
        f"{found['n_classes']} classes, {found['n_features']} features"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    accuracies = {"linear accuracy, held out": found["held_out_accuracy"]}
    for name, value in {**found["metrics"], **accuracies, **found["variants"]}.items():
        table.add_row(name.replace("_", " "), short_number(value))
    console.print(table)
    for name, reason in found["undefined"].items():
        console.print(f"note: {name.replace('_', ' ')}: {reason}")
    own = found["separation"]
    console.print(f"separable pairs          {own['n_separable_pairs']} of {own['n_pairs']}")
    first, second = own["narrowest_pair"]
    margin = short_number(own["narrowest_margin"])
    console.print(f"narrowest margin         {margin} (classes {first} and {second}), in units of features")
    one = f"yes, with a margin of at least {short_number(own['classifier_margin'])}" if own["one_classifier"] else "no"
    console.print(f"one linear classifier    {one}")
    console.print(
        f"a pair, by chance        separable with probability {short_number(own['chance_cover'])} (Cover's count), "
        f"{short_number(own['chance_permuted'])} ({own['n_permutations']} permutations of labels)"
    )
    rank = f"{found['effective_rank']} of {found['n_classes'] - 1}"
    console.print(f"directions of means      {rank}, condition {short_number(found['condition'])}")
    if layers := found["layers"]:
        each = ", ".join(f"{n} {short_number(v)}" for n, v in zip(layers["layers"], layers["fuzziness"], strict=True))
        console.print(f"separation fuzziness     {each}")
        console.print(
            f"law of data separation   factor {short_number(layers['decay_ratio'])} a layer, "
            f"correlation of log fuzziness and layer {short_number(layers['correlation'])}"
        )
