"""Options that several commands share.

The choices repeat those of the library, whose modules are too slow to import for ``lesde --help``;
tests/lesde_infer/test_cli.py holds the two together.
"""

from typing import Annotated, Any, Literal, TypeAlias, get_args

import typer

from data_tools.errors import InputError

Impact: TypeAlias = Literal["R", "L", "I"]
Elasticity: TypeAlias = Literal["homogeneous", "matrix"]
Curve: TypeAlias = Literal["gp", "power", "constant"]
Within: TypeAlias = Literal["isotropic", "spanned"]
Group: TypeAlias = Literal["labels", "given_labels"]
Parts: TypeAlias = Literal["all", "rates"]

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
PartsOption: TypeAlias = Annotated[
    Parts,
    typer.Option(help="The whole model, or γ, α and β alone: in less time, enough to compare but not to check."),
]
UntilOption: TypeAlias = Annotated[int | None, typer.Option(min=0, help="Use records up to this step only.")]
FrequenciesOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--class-frequencies",
        metavar="P,P,…",
        help="How often training draws each class, with commas; by default as recorded, else equally often.",
    ),
]
Time: TypeAlias = Literal["recorded", "steps", "learning_rate"]
TimeOption: TypeAlias = Annotated[
    Time, typer.Option(help="Unit of time: as recorded, optimizer steps, or the sum of lr/(1 − momentum).")
]
Drive: TypeAlias = Literal["auto", "instantaneous", "filtered"]
DriveOption: TypeAlias = Annotated[
    Drive,
    typer.Option(help="Impacts as they are, or filtered by the memory of momentum; by default where that is due."),
]
SeedOption: TypeAlias = Annotated[int, typer.Option(min=0, help="Fixes all that is random.")]
JsonOption: TypeAlias = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the result for machines; - is standard output.")
]
ForceOption: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
AllowUnconvergedOption: TypeAlias = Annotated[
    bool, typer.Option("--allow-unconverged", help="Keep a fit whose sampler missed its target, marked as such.")
]

CacheOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="Keep what is taken of recordings of 64 MB and more for the next time; --no-cache: take it anew.",
    ),
]


def numbers(option: str, given: str) -> list[float]:
    """Return the numbers of a list with commas.

    Raises
    ------
    InputError
        If something in the list is no number.
    """
    try:
        return [float(part) for part in given.split(",")]
    except ValueError as error:
        raise InputError(f"{option}: '{given}' is no list of numbers with commas, such as 0.5,0.3,0.2") from error


def choices(option: str, given: str, allowed: Any) -> list[Any]:
    """Return the choices named in a list with commas, in its order and each once.

    Raises
    ------
    InputError
        If one is unknown.
    """
    names = [name.strip() for name in given.split(",")]
    known = get_args(allowed)
    for name in names:
        if name not in known:
            raise InputError(f"{option}: '{name}' is unknown; choose of {', '.join(known)}, with commas between them")
    return list(dict.fromkeys(names))
