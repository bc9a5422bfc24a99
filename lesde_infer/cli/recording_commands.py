"""``lesde record``, ``lesde convert`` and ``lesde simulate``: where recordings come from."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import progress_bars, results_console
from lesde_infer.cli.inspection import describe, show_description
from lesde_infer.cli.options import ForceOption, Impact, JsonOption, SeedOption
from lesde_infer.cli.output_files import check_outputs, write_json

Dataset: TypeAlias = Literal["geomnist", "digits", "mnist5k", "cifar10"]
Architecture: TypeAlias = Literal["lenet", "mlp", "linear", "cnn", "cnn_batchnorm", "residual", "transformer"]
Schedule: TypeAlias = Literal["every", "logarithmic", "adaptive"]
SourceFormat: TypeAlias = Literal["npz", "npy", "csv", "paper"]

OutOption: TypeAlias = Annotated[Path, typer.Option(help="Recording to make.")]
EveryOption: TypeAlias = Annotated[int, typer.Option(min=1, help="Steps from one burst of records to the next.")]
BurstOption: TypeAlias = Annotated[int, typer.Option(min=1, help="Consecutive steps recorded each time.")]
LabelNoiseOption: TypeAlias = Annotated[float, typer.Option(min=0, max=1, help="Share of samples with a wrong label.")]

EARLY_SHARE = 0.01  # of a simulated run, before which a power law is flat: it would start at infinity


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("record")(record)
    app.command("convert")(convert)
    app.command("simulate")(simulate)


def record(
    out: OutOption,
    dataset: Annotated[Dataset, typer.Option(help="Images; all but cifar10 need no download.")] = "geomnist",
    architecture: Annotated[Architecture, typer.Option(help="Network; lenet is the paper's.")] = "lenet",
    label_noise: LabelNoiseOption = 0.0,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 10_000,
    schedule: Annotated[
        Schedule,
        typer.Option(help="When to record: regularly, evenly in the logarithm of steps, or when residuals have moved."),
    ] = "every",
    every: Annotated[
        int, typer.Option(min=1, help="Steps from one burst of records to the next; of an adaptive schedule the least.")
    ] = 50,
    burst: BurstOption = 2,
    per_decade: Annotated[
        float, typer.Option(min=1, max=1000, help="Logarithmic: bursts while steps grow tenfold.")
    ] = 20.0,
    target: Annotated[
        float, typer.Option(max=1, help="Adaptive: share of their largest size that residuals move between bursts.")
    ] = 0.1,
    most: Annotated[int, typer.Option(min=1, help="Adaptive: most steps from one burst to the next.")] = 1000,
    max_size: Annotated[
        float | None, typer.Option("--max-size", help="Adaptive: largest file, in megabytes (10⁶ bytes).")
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(help="Most time recording may take, as a share of training's; such as 0.02.")
    ] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Store features in half precision.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 1,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.005,
    momentum: Annotated[float, typer.Option(help="Momentum, from 0 to below 1.")] = 0.0,
    train_per_class: Annotated[int, typer.Option(min=1, help="Images of each class to train on.")] = 500,
    probe_per_class: Annotated[int, typer.Option(min=2, help="Of these, how many are recorded.")] = 100,
    validation_per_class: Annotated[int, typer.Option(min=1, help="Clean images of each class kept apart.")] = 100,
    n_classes: Annotated[int | None, typer.Option(min=2, help="Use the first classes only.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the binary version of CIFAR-10 is.")] = None,
    measure_elasticity_every: Annotated[
        int | None, typer.Option(min=1, help="Measure elasticity on the live network every so many steps.")
    ] = None,
    elasticity_repeats: Annotated[
        int, typer.Option(min=1, help="Steps tried at each such measurement; of each class if the batch size is 1.")
    ] = 10,
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Train a built-in network, and record its features.

    By the protocol of the paper. Needs PyTorch: pip install 'lesde-infer[record]'. To record a network of your own,
    use data_tools.FeatureRecorder in its training loop.
    """
    check_outputs([out, json], force=force)
    try:
        from data_tools.experiments import ExperimentConfig, run_experiment
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError("record needs PyTorch, which is not installed; pip install 'lesde-infer[record]'") from error
    config = ExperimentConfig(
        dataset=dataset,
        architecture=architecture,
        label_noise=label_noise,
        steps=steps,
        schedule=schedule,
        every=every,
        burst=burst,
        per_decade=per_decade,
        target=target,
        most=most,
        max_bytes=_bytes(max_size, schedule),
        time_budget=time_budget,
        stored_dtype="float16" if float16 else None,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        measure_elasticity_every=measure_elasticity_every,
        elasticity_repeats=elasticity_repeats,
        seed=seed,
        train_per_class=train_per_class,
        probe_per_class=probe_per_class,
        validation_per_class=validation_per_class,
        n_classes=n_classes,
        folder=None if folder is None else str(folder),
    )
    with progress_bars() as show:
        run_experiment(config, out, force=force, progress=None if show is None else partial(show, "training"))
    _show_result(out, json, force)


def _bytes(megabytes: float | None, schedule: Schedule) -> int | None:
    """Return the largest size of a file, which only an adaptive schedule keeps to."""
    if megabytes is None:
        return None
    if schedule != "adaptive":
        raise InputError(f"--max-size {megabytes:g} needs --schedule adaptive: other schedules record when they say")
    if not megabytes > 0:
        raise InputError(f"--max-size {megabytes:g} must be positive")
    return int(megabytes * 1e6)


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Archive (.npz), folder of arrays (.npy), or table (.csv, .csv.gz)."),
    ],
    out: OutOption,
    source_format: Annotated[
        SourceFormat | None,
        typer.Option("--format", help="What SOURCE is; by default guessed. paper: tables of the paper's own code."),
    ] = None,
    layer: Annotated[str, typer.Option(help="What to call the layer of the logits.")] = "fc3",
    window: Annotated[int, typer.Option(min=1, help="Steps that make one record of a paper's table.")] = 50,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Turn archives, arrays and tables of logits into a recording.

    An archive has step, logits and y_true. A folder has labels.npy, and step.npy with LAYER.npy or LAYER_STEP.npy for
    each step. A table has the columns step, sample, label, logit_0, …, or those of the paper's code: trial, itr, smp,
    y, y_logit0, …
    """
    from data_tools.convert import convert_recording

    check_outputs([out, json], inputs=[source], force=force)
    convert_recording(source, out, source_format=source_format, layer=layer, window=window, force=force)
    _show_result(out, json, force)


def simulate(
    out: OutOption,
    n_classes: Annotated[int, typer.Option(min=2, help="Classes.")] = 3,
    samples_per_class: Annotated[int, typer.Option(min=2, help="Samples in each class.")] = 100,
    n_features: Annotated[
        int | None, typer.Option(min=1, help="Features; by default as many as classes. Others need impact I.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to simulate.")] = 5000,
    every: EveryOption = 50,
    burst: BurstOption = 2,
    impact: Annotated[Impact, typer.Option(help="Direction of the drift: R, L or I.")] = "R",
    gamma: Annotated[float, typer.Option(help="Separation rate γ = α − β at the end, per step.")] = 0.01,
    beta: Annotated[float, typer.Option(help="Effect on other classes β, per step.")] = 0.0,
    tail_index: Annotated[float, typer.Option(help="γ falls like t to minus this power; 0 is constant.")] = 0.0,
    kappa: Annotated[float, typer.Option(help="Growth of deviations within classes, per step.")] = 0.0,
    global_scale: Annotated[float, typer.Option(min=0, help="Noise shared by all classes, per √step.")] = 0.01,
    class_scale: Annotated[float, typer.Option(min=0, help="Noise shared by a class, per √step.")] = 0.003,
    individual_scale: Annotated[float, typer.Option(min=0, help="Noise of single samples, per √step.")] = 0.01,
    label_noise: LabelNoiseOption = 0.0,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="The stochastic equation, or the ordinary.")] = True,
    seed: SeedOption = 0,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Simulate the LE-SDE with known rates.

    For trying out what a fit makes of them. γ(t) = γ ((t + τ) / (T + τ))^−r with T the number of steps, r the tail
    index and τ = T/100; all else is constant.
    """
    check_outputs([out, json], force=force)
    if burst > every:
        raise InputError(f"--burst {burst} does not fit into --every {every}; lower it")
    from lesde_infer.simulation import simulate as simulate_path

    all_steps = np.arange(steps + 1)
    early = EARLY_SHARE * steps

    def alpha(step: float) -> float:
        return beta + gamma * ((step + early) / (steps + early)) ** -tail_index

    recording = simulate_path(
        out,
        n_classes=n_classes,
        samples_per_class=samples_per_class,
        n_features=n_features,
        steps=all_steps[(all_steps % every < burst) | (all_steps == steps)],
        alpha=alpha,
        beta=beta,
        kappa=kappa,
        global_scale=global_scale,
        class_scale=class_scale,
        individual_scale=individual_scale,
        impact=impact,
        label_noise=label_noise,
        noise=noise,
        seed=seed,
        force=force,
    )
    recording.close()
    _show_result(out, json, force)


def _show_result(out: Path, json: str | None, force: bool) -> None:
    description = describe(out)
    show_description(description, results_console(json))
    write_json(description, json, force=force)
