"""``lesde watch``: a run while it trains, with γ fitted again and again in the background."""

import json as json_module
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_tools.errors import InputError
from lesde_infer.cli.console import results_console, short_number
from lesde_infer.cli.inspection import sparkline
from lesde_infer.cli.options import CurveOption, ForceOption, JsonOption, LayerOption
from lesde_infer.cli.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from lesde_infer.running_gamma import RunningGamma
    from lesde_infer.watching import Moment

FEWEST_RECORDS = 12  # for a first fit
STATES = {
    "writing": "training",
    "finished": "finished",
    "died": "its writer died; this is what it completed",
    "unknown": "not finished; whether its writer is still at work cannot be told here",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("watch")(watch)


def watch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recording that is being written.")],
    layer: LayerOption = None,
    curve: CurveOption = "gp",
    planned_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the whole run: forecast separability at its end.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
    fit: Annotated[bool, typer.Option("--fit/--no-fit", help="Infer γ in the background.")] = True,
    once: Annotated[bool, typer.Option("--once", help="Look, fit once, print and end.")] = False,
    json: JsonOption = None,
    force: ForceOption = False,
) -> None:
    """Watch a run while it trains.

    Shows loss, separability and collapse of the probe at the last record, and a quick estimate of γ over the last tenth
    of the run; a look reads only what was added. Beside it the posterior of γ, from a fit of what has been recorded (at
    most 400 records of a long run), in a process of the lowest priority, begun again when it ends and records have been
    added. It ends when the recording is finished or its writer died, with what is known then. In a pipe only that is
    printed.
    """
    check_outputs([json], inputs=[file], force=force)
    if not file.is_file():
        raise InputError(f"{file}: no such file; start training with a FeatureRecorder first")
    from lesde_infer.watching import look

    running = running_gamma(file, layer)
    moment = look(file, layer, running=running)
    with tempfile.TemporaryDirectory(prefix="lesde-watch-") as folder:
        refitter = Refitter(file, layer, curve, planned_steps, Path(folder)) if fit else None
        try:
            if once:
                if refitter is not None and refitter.begin(moment):
                    refitter.wait()
            else:
                moment = _follow(file, layer, moment, refitter, running, every)
        finally:
            if refitter is not None:
                refitter.stop()
    inferred = None if refitter is None else refitter.found
    results_console(json).print(dashboard(moment, inferred, planned_steps))
    write_json({**moment.to_json(), "inferred": inferred}, json, force=force)


def running_gamma(file: Path, layer: str | None) -> "RunningGamma":
    """Return what will take in the records of a recording."""
    from data_tools.recording import Recording
    from lesde_infer.running_gamma import RunningGamma

    with Recording(file) as recording:
        return RunningGamma(recording.choose_layer(layer))


def _follow(
    file: Path,
    layer: str | None,
    moment: "Moment",
    refitter: "Refitter | None",
    running: "RunningGamma",
    every: float,
) -> "Moment":
    """Look again and again until nothing more will come, and return what was seen last."""
    from lesde_infer.watching import look

    screen = _Screen()
    with screen:
        while True:
            if refitter is not None:
                refitter.poll()
                refitter.begin(moment)
            screen.show(moment, refitter)
            over = moment.writer in ("finished", "died")
            if over and (refitter is None or refitter.is_up_to_date(moment)):
                return moment
            time.sleep(every)
            moment = look(file, layer, known=moment, running=running)


class Refitter:
    """Fits in a process of their own, one at a time.

    Parameters
    ----------
    file, layer, curve, planned_steps
        What is fitted.
    folder : Path
        Where results are left.
    """

    def __init__(self, file: Path, layer: str | None, curve: str, planned_steps: int | None, folder: Path) -> None:
        self._file, self._layer, self._curve, self._planned = file, layer, curve, planned_steps
        self._target = folder / "fit.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._begun_at = -1
        self.found: dict[str, Any] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a fit is being made."""
        return self._process is not None

    def begin(self, moment: "Moment") -> bool:
        """Begin a fit unless one runs, nothing was added, or there are too few records; tell whether one was begun."""
        if self._process is not None or moment.n_records < FEWEST_RECORDS or moment.last_step == self._begun_at:
            return False
        command = [sys.executable, "-m", "lesde_infer.watch_fit", str(self._file), str(moment.last_step)]
        command += [str(self._target), "--curve", self._curve]
        command += [] if self._layer is None else ["--layer", self._layer]
        command += [] if self._planned is None else ["--horizon", str(self._planned)]
        self._process = subprocess.Popen(  # noqa: S603  (this program, and paths that the user gave)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._begun_at = moment.last_step
        return True

    def poll(self) -> None:
        """Take up what a fit that has ended found."""
        if self._process is not None and self._process.poll() is not None:
            self._take_up()

    def wait(self) -> None:
        """Wait for the fit that runs."""
        if self._process is not None:
            self._process.wait()
            self._take_up()

    def is_up_to_date(self, moment: "Moment") -> bool:
        """Tell whether all that is recorded has been fitted, or cannot be."""
        return self._process is None and (moment.n_records < FEWEST_RECORDS or moment.last_step == self._begun_at)

    def stop(self) -> None:
        """End the fit that runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _take_up(self) -> None:
        ended, self._process = self._process, None
        if ended is not None and ended.returncode == 0 and self._target.exists():
            self.found = json_module.loads(self._target.read_text())
            self._target.unlink()
        elif self.found is None:
            self.found = {"until_step": self._begun_at, "refused": "the fit failed; see `lesde fit` on this file"}


class _Screen:
    """A table that is drawn anew on a terminal; nothing in a pipe, where only the end is printed."""

    def __enter__(self) -> "_Screen":
        self._live = None
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(transient=True, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def show(self, moment: "Moment", refitter: Refitter | None) -> None:
        """Draw what is known."""
        if self._live is not None:
            found = None if refitter is None else refitter.found
            running = refitter is not None and refitter.is_running
            self._live.update(dashboard(moment, found, None, is_fitting=running), refresh=True)


def dashboard(
    moment: "Moment", inferred: dict[str, Any] | None, planned_steps: int | None, *, is_fitting: bool = False
) -> "Table":
    """Return a table of what is known of a run."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column()
    planned = "" if planned_steps is None else f" of {planned_steps}"
    table.add_row("state", STATES[moment.writer])
    table.add_row("step", f"{moment.last_step}{planned}; {moment.n_records} records")
    if moment.loss:
        table.add_row("loss", f"{short_number(moment.loss[-1])}  {sparkline(moment.loss)}")
    share = moment.metrics["linear_separability"]
    separable = "–" if math.isnan(share) else f"{share:.0%} of the pairs of classes"
    table.add_row("separable", separable)
    table.add_row("nearest class mean", short_number(moment.metrics["ncm_accuracy"]))
    table.add_row("NC1", short_number(moment.metrics["nc1"]))
    table.add_row("within/between", short_number(moment.metrics["within_between_ratio"]))
    if moment.gamma_now is not None:
        now = moment.gamma_now
        table.add_row(
            "γ, last tenth (quick)", f"{short_number(now.mean)} ({short_number(now.q05)} to {short_number(now.q95)})"
        )
    for name, text in inferred_rows(inferred, moment, is_fitting=is_fitting).items():
        table.add_row(name, text)
    return table


def inferred_rows(inferred: dict[str, Any] | None, moment: "Moment", *, is_fitting: bool) -> dict[str, str]:
    """Return what the last fit says, by name."""
    fitting = "; fitting again" if is_fitting else ""
    if inferred is None:
        if moment.n_records < FEWEST_RECORDS:
            return {"γ": f"a first fit takes {FEWEST_RECORDS} records"}
        return {"γ": "first fit under way"} if is_fitting else {}
    if "refused" in inferred:
        return {"γ": f"no fit: {inferred['refused']}{fitting}"}
    gamma = inferred["gamma_end"]
    doubt = "" if inferred["converged"] else " (did NOT converge)"
    rows = {
        "γ": f"{short_number(gamma['mean'])} ({short_number(gamma['q05'])} to {short_number(gamma['q95'])}) "
        f"up to step {inferred['until_step']}{doubt}{fitting}",
        "P(γ > 0)": f"{inferred['probability_gamma_positive']:.3f}",
    }
    if "probability_separable" in inferred:
        rows[f"P(separable at step {inferred['horizon_step']})"] = f"{inferred['probability_separable']:.3f}"
    return rows
