"""Options that several commands share.

The choices repeat those of the library, whose modules are too slow to import for ``lesde --help``;
tests/lesde_infer/test_cli.py holds the two together.
"""

from typing import Annotated, Literal, TypeAlias

import typer

Impact: TypeAlias = Literal["R", "L", "I"]
Elasticity: TypeAlias = Literal["homogeneous", "matrix"]
Curve: TypeAlias = Literal["gp", "power", "constant"]
Within: TypeAlias = Literal["isotropic", "spanned"]
Group: TypeAlias = Literal["labels", "given_labels"]

LayerOption: TypeAlias = Annotated[str | None, typer.Option(help="Layer to analyse; by default the logits.")]
ImpactOption: TypeAlias = Annotated[
    Impact, typer.Option(help="Direction of the drift: residuals (R), the logits model (L) or isotropic (I).")
]
ElasticityOption: TypeAlias = Annotated[Elasticity, typer.Option(help="One α and β for all pairs, or a rate for each.")]
CurveOption: TypeAlias = Annotated[
    Curve, typer.Option(help="How rates may change: Gaussian process, power law, or not at all.")
]
GroupOption: TypeAlias = Annotated[
    Group, typer.Option(help="Classes by what samples are, or by what they are trained as.")
]
WithinOption: TypeAlias = Annotated[
    Within,
    typer.Option(
        help="Deviations within classes: alike in all directions, or apart along and across the span of class means."
    ),
]
UntilOption: TypeAlias = Annotated[int | None, typer.Option(min=0, help="Use records up to this step only.")]
SeedOption: TypeAlias = Annotated[int, typer.Option(min=0, help="Fixes all that is random.")]
JsonOption: TypeAlias = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result for machines; - is standard output.")
]
ForceOption: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
AllowUnconvergedOption: TypeAlias = Annotated[
    bool, typer.Option("--allow-unconverged", help="Keep a fit whose sampler missed its target, marked as such.")
]
